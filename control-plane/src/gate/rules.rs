//! The role × RPC table: the only place that says who may call what.

use super::Role::{self, Admin, Auditor, Billing, Developer, Operator, Owner, Viewer};

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anyone: reflection and health, nothing else.
    Public,
    /// Whoever has an enrolment token in the request itself.
    EnrollmentToken,
    /// These roles.
    Roles(&'static [Role]),
}

const EVERYONE: Access =
    Access::Roles(&[Owner, Admin, Developer, Billing, Viewer, Operator, Auditor]);
const LEASERS: Access = Access::Roles(&[Owner, Admin, Developer, Operator]);
const ADMINS: Access = Access::Roles(&[Owner, Admin, Operator]);
const ADMINS_AND_AUDITOR: Access = Access::Roles(&[Owner, Admin, Operator, Auditor]);
const BILL_READERS: Access = Access::Roles(&[Owner, Admin, Billing, Operator, Auditor]);
const OPERATOR: Access = Access::Roles(&[Operator]);
const OPERATOR_AND_AUDITOR: Access = Access::Roles(&[Operator, Auditor]);

/// Every method that the public listener serves.
pub const RULES: &[(&str, Access)] = &[
    ("/freehold.v1.AccessService/CreateApiKey", ADMINS),
    ("/freehold.v1.AccessService/GetCaller", EVERYONE),
    ("/freehold.v1.AccessService/GetSshGateway", EVERYONE),
    ("/freehold.v1.AccessService/ListApiKeys", ADMINS_AND_AUDITOR),
    ("/freehold.v1.AccessService/RevokeApiKey", ADMINS),
    ("/freehold.v1.AccessService/SignSshCertificate", LEASERS),
    (
        "/freehold.v1.AuditService/ListAuditEntries",
        ADMINS_AND_AUDITOR,
    ),
    ("/freehold.v1.BillingService/GetReport", BILL_READERS),
    ("/freehold.v1.BillingService/ListUsageRecords", BILL_READERS),
    ("/freehold.v1.CatalogService/CreateInstanceType", OPERATOR),
    ("/freehold.v1.CatalogService/GetInstanceType", EVERYONE),
    ("/freehold.v1.CatalogService/ListInstanceTypes", EVERYONE),
    ("/freehold.v1.CatalogService/ListPrices", EVERYONE),
    ("/freehold.v1.CatalogService/SearchOffers", EVERYONE),
    ("/freehold.v1.CatalogService/SetPrice", OPERATOR),
    ("/freehold.v1.HostService/CordonHost", OPERATOR),
    ("/freehold.v1.HostService/CreateEnrollmentToken", OPERATOR),
    ("/freehold.v1.HostService/GetHost", OPERATOR_AND_AUDITOR),
    ("/freehold.v1.HostService/ListHosts", OPERATOR_AND_AUDITOR),
    ("/freehold.v1.HostService/ReleaseHost", OPERATOR),
    ("/freehold.v1.HostService/RemoveHost", OPERATOR),
    ("/freehold.v1.HostService/UncordonHost", OPERATOR),
    ("/freehold.v1.LeaseService/CreateLease", LEASERS),
    ("/freehold.v1.LeaseService/EndLease", LEASERS),
    ("/freehold.v1.LeaseService/ExplainLease", EVERYONE),
    ("/freehold.v1.LeaseService/GetLease", EVERYONE),
    ("/freehold.v1.LeaseService/ListLeases", EVERYONE),
    ("/freehold.v1.LeaseService/WatchLease", EVERYONE),
    (
        "/freehold.v1.OrganizationService/CreateOrganization",
        OPERATOR,
    ),
    ("/freehold.v1.OrganizationService/CreateProject", ADMINS),
    ("/freehold.v1.OrganizationService/GetOrganization", EVERYONE),
    (
        "/freehold.v1.OrganizationService/ListOrganizations",
        EVERYONE,
    ),
    ("/freehold.v1.OrganizationService/ListProjects", EVERYONE),
    ("/freehold.v1.TelemetryService/GetHostTelemetry", EVERYONE),
    (
        "/freehold.agent.v1.EnrollmentService/Enroll",
        Access::EnrollmentToken,
    ),
    ("/grpc.health.v1.Health/Check", Access::Public),
    ("/grpc.health.v1.Health/List", Access::Public),
    ("/grpc.health.v1.Health/Watch", Access::Public),
    (
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        Access::Public,
    ),
    (
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        Access::Public,
    ),
];

/// Who may call the method at this path; `None`: no such method.
#[must_use]
pub fn access_for(path: &str) -> Option<Access> {
    RULES
        .iter()
        .find(|(rule, _)| *rule == path)
        .map(|(_, access)| *access)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_reflection_and_health_are_public() {
        for (path, access) in RULES {
            let infrastructure =
                path.starts_with("/grpc.health.") || path.starts_with("/grpc.reflection.");
            assert_eq!(*access == Access::Public, infrastructure, "{path}");
        }
    }

    #[test]
    fn the_auditor_changes_nothing() {
        for (path, access) in RULES {
            let method = path.rsplit('/').next().unwrap();
            let reads = ["Get", "List", "Watch", "Explain", "Search"]
                .iter()
                .any(|v| method.starts_with(v));
            if let Access::Roles(roles) = access {
                assert!(reads || !roles.contains(&Auditor), "{path}");
            }
        }
    }
}
