//! Every RPC, written down a second time: who may call it, and with which ids it would reach another tenant's things. A new RPC is added
//! here by hand, which is the moment to think about both.

use freehold_proto::v1::{
    self,
    Role::{self, Admin, Auditor, Billing, Developer, Operator, Owner, Viewer},
};
use prost::Message as _;

/// Who may call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Who {
    /// Keys with these roles.
    Roles(&'static [Role]),
    /// Whoever has an enrolment token.
    EnrollmentToken,
    /// Agents, on their own listener, by client certificate.
    Agents,
}

/// Ids of a tenant's things.
#[derive(Debug, Clone)]
pub(crate) struct Ids {
    pub(crate) organization: String,
    pub(crate) project: String,
    pub(crate) lease: String,
    pub(crate) key: String,
    pub(crate) host: String,
}

/// An RPC.
pub(crate) struct Call {
    pub(crate) path: &'static str,
    pub(crate) who: Who,
    /// Requests that reach for a tenant's things, one way each. Empty: it has no tenant's things.
    pub(crate) reaching: fn(&Ids) -> Vec<Vec<u8>>,
}

const EVERYONE: Who = Who::Roles(&[Owner, Admin, Developer, Billing, Viewer, Operator, Auditor]);
const LEASERS: Who = Who::Roles(&[Owner, Admin, Developer, Operator]);
const ADMINS: Who = Who::Roles(&[Owner, Admin, Operator]);
const ADMINS_AND_AUDITOR: Who = Who::Roles(&[Owner, Admin, Operator, Auditor]);
const BILL_READERS: Who = Who::Roles(&[Owner, Admin, Billing, Operator, Auditor]);
const OPERATOR: Who = Who::Roles(&[Operator]);
const OPERATOR_AND_AUDITOR: Who = Who::Roles(&[Operator, Auditor]);

fn nothing(_: &Ids) -> Vec<Vec<u8>> {
    Vec::new()
}

/// A request for a lease in each way that it can be named: by its id, in the caller's organization and in its own.
macro_rules! of_lease {
    ($request:ident $(, $field:ident: $value:expr)*) => {
        |ids| {
            let by_id = v1::$request { lease: ids.lease.clone(), $($field: $value,)* ..Default::default() };
            let in_organization = v1::$request { organization: ids.organization.clone(), ..by_id.clone() };
            let in_project = v1::$request { project: ids.project.clone(), ..by_id.clone() };
            vec![by_id.encode_to_vec(), in_organization.encode_to_vec(), in_project.encode_to_vec()]
        }
    };
}

/// A request that names the organization alone.
macro_rules! of_organization {
    ($request:ident $(, $field:ident: $value:expr)*) => {
        |ids| vec![v1::$request { organization: ids.organization.clone(), $($field: $value,)* ..Default::default() }.encode_to_vec()]
    };
}

fn creates_of_leases(ids: &Ids) -> Vec<Vec<u8>> {
    let create = freehold_tests::client::open_ended();
    let in_organization = v1::CreateLeaseRequest {
        organization: ids.organization.clone(),
        ..create.clone()
    };
    let in_project = v1::CreateLeaseRequest {
        project: ids.project.clone(),
        ..create
    };
    vec![in_organization.encode_to_vec(), in_project.encode_to_vec()]
}

fn keys_of_projects(ids: &Ids) -> Vec<Vec<u8>> {
    let in_organization = v1::CreateApiKeyRequest {
        organization: ids.organization.clone(),
        ..Default::default()
    };
    let in_project = v1::CreateApiKeyRequest {
        project: ids.project.clone(),
        ..Default::default()
    };
    vec![in_organization.encode_to_vec(), in_project.encode_to_vec()]
}

fn lists_of_leases(ids: &Ids) -> Vec<Vec<u8>> {
    let in_organization = v1::ListLeasesRequest {
        organization: ids.organization.clone(),
        ..Default::default()
    };
    let in_project = v1::ListLeasesRequest {
        project: ids.project.clone(),
        ..Default::default()
    };
    vec![in_organization.encode_to_vec(), in_project.encode_to_vec()]
}

fn reports(ids: &Ids) -> Vec<Vec<u8>> {
    let in_organization = v1::GetReportRequest {
        organization: ids.organization.clone(),
        ..Default::default()
    };
    let in_project = v1::GetReportRequest {
        project: ids.project.clone(),
        ..Default::default()
    };
    vec![in_organization.encode_to_vec(), in_project.encode_to_vec()]
}

/// A public key that nobody has the private half of.
pub(crate) const PUBLIC_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

macro_rules! calls {
    ($($path:literal, $who:expr, $reaching:expr;)*) => {
        &[$(Call { path: $path, who: $who, reaching: $reaching },)*]
    };
}

/// All of them.
pub(crate) const CALLS: &[Call] = calls! {
    "/freehold.agent.v1.EnrollmentService/Enroll", Who::EnrollmentToken, nothing;
    "/freehold.agent.v1.LinkService/Attach", Who::Agents, nothing;
    "/freehold.agent.v1.LinkService/CertifyHostKey", Who::Agents, nothing;
    "/freehold.agent.v1.LinkService/Renew", Who::Agents, nothing;
    "/freehold.v1.AccessService/CreateApiKey", ADMINS, keys_of_projects;
    "/freehold.v1.AccessService/GetCaller", EVERYONE, nothing;
    "/freehold.v1.AccessService/GetSshGateway", EVERYONE, nothing;
    "/freehold.v1.AccessService/ListApiKeys", ADMINS_AND_AUDITOR, of_organization!(ListApiKeysRequest);
    "/freehold.v1.AccessService/RevokeApiKey", ADMINS,
        |ids| vec![v1::RevokeApiKeyRequest { api_key: ids.key.clone() }.encode_to_vec()];
    "/freehold.v1.AccessService/SignSshCertificate", LEASERS,
        of_lease!(SignSshCertificateRequest, public_key: PUBLIC_KEY.to_owned());
    "/freehold.v1.AuditService/ListAuditEntries", ADMINS_AND_AUDITOR, of_organization!(ListAuditEntriesRequest);
    "/freehold.v1.BillingService/GetReport", BILL_READERS, reports;
    "/freehold.v1.BillingService/ListUsageRecords", BILL_READERS, of_lease!(ListUsageRecordsRequest);
    "/freehold.v1.CatalogService/CreateInstanceType", OPERATOR, nothing;
    "/freehold.v1.CatalogService/GetInstanceType", EVERYONE, nothing;
    "/freehold.v1.CatalogService/ListInstanceTypes", EVERYONE, nothing;
    "/freehold.v1.CatalogService/ListPrices", EVERYONE, nothing;
    "/freehold.v1.CatalogService/SearchOffers", EVERYONE, nothing;
    "/freehold.v1.CatalogService/SetPrice", OPERATOR, nothing;
    "/freehold.v1.HostService/CordonHost", OPERATOR, nothing;
    "/freehold.v1.HostService/CreateEnrollmentToken", OPERATOR, nothing;
    "/freehold.v1.HostService/GetHost", OPERATOR_AND_AUDITOR, nothing;
    "/freehold.v1.HostService/ListHosts", OPERATOR_AND_AUDITOR, nothing;
    "/freehold.v1.HostService/ReleaseHost", OPERATOR, nothing;
    "/freehold.v1.HostService/RemoveHost", OPERATOR, nothing;
    "/freehold.v1.HostService/UncordonHost", OPERATOR, nothing;
    "/freehold.v1.LeaseService/CreateLease", LEASERS, creates_of_leases;
    "/freehold.v1.LeaseService/EndLease", LEASERS, of_lease!(EndLeaseRequest);
    "/freehold.v1.LeaseService/ExplainLease", EVERYONE, of_lease!(ExplainLeaseRequest);
    "/freehold.v1.LeaseService/GetLease", EVERYONE, of_lease!(GetLeaseRequest);
    "/freehold.v1.LeaseService/ListLeases", EVERYONE, lists_of_leases;
    "/freehold.v1.LeaseService/WatchLease", EVERYONE, of_lease!(WatchLeaseRequest);
    "/freehold.v1.OrganizationService/CreateOrganization", OPERATOR, nothing;
    "/freehold.v1.OrganizationService/CreateProject", ADMINS,
        of_organization!(CreateProjectRequest, name: "spare".to_owned());
    "/freehold.v1.OrganizationService/GetOrganization", EVERYONE,
        |ids| vec![v1::GetOrganizationRequest { organization: ids.organization.clone() }.encode_to_vec()];
    "/freehold.v1.OrganizationService/ListOrganizations", EVERYONE, nothing;
    "/freehold.v1.OrganizationService/ListProjects", EVERYONE, of_organization!(ListProjectsRequest);
    "/freehold.v1.TelemetryService/GetHostTelemetry", EVERYONE,
        |ids| vec![v1::GetHostTelemetryRequest { host: ids.host.clone(), ..Default::default() }.encode_to_vec()];
};
