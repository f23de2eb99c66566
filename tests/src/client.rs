//! gRPC clients of one replica with one key.

use std::time::Duration;

use freehold_proto::v1::{
    self, access_service_client::AccessServiceClient, audit_service_client::AuditServiceClient,
    billing_service_client::BillingServiceClient, catalog_service_client::CatalogServiceClient,
    host_service_client::HostServiceClient, lease_service_client::LeaseServiceClient,
    organization_service_client::OrganizationServiceClient,
    telemetry_service_client::TelemetryServiceClient,
};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use crate::wait::{self, until};

/// What is leased where a test does not care.
pub const TYPE: &str = "gpu_8x_h100_sxm5";

/// A replica and a key. Connects at the first call, and again whenever the replica was gone.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    bearer: Bearer,
}

/// Adds the key to every call.
#[derive(Debug, Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(bearer) = &self.0 {
            let metadata = request.metadata_mut();
            metadata.insert("authorization", bearer.clone());
        }
        Ok(request)
    }
}

/// The transport of every client here.
pub type Transport = InterceptedService<Channel, Bearer>;

impl Client {
    /// A client; an empty token sends no credentials.
    ///
    /// # Panics
    /// When the server or the token cannot be one.
    #[must_use]
    pub fn new(server: &str, ca_pem: &[u8], token: &str) -> Self {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca_pem));
        let channel = Endpoint::from_shared(server.to_owned())
            .and_then(|endpoint| endpoint.tls_config(tls))
            .expect("a server")
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(60))
            .connect_lazy();
        let bearer = (!token.is_empty()).then(|| format!("Bearer {token}"));
        let bearer = bearer.map(|text| text.parse().expect("ASCII"));
        Self {
            channel,
            bearer: Bearer(bearer),
        }
    }

    /// For calls that no generated client makes.
    #[must_use]
    pub fn transport(&self) -> Transport {
        InterceptedService::new(self.channel.clone(), self.bearer.clone())
    }

    /// Leases.
    #[must_use]
    pub fn leases(&self) -> LeaseServiceClient<Transport> {
        LeaseServiceClient::new(self.transport()).max_encoding_message_size(8 << 20)
    }

    /// Hosts.
    #[must_use]
    pub fn hosts(&self) -> HostServiceClient<Transport> {
        HostServiceClient::new(self.transport())
    }

    /// Types, prices and offers.
    #[must_use]
    pub fn catalog(&self) -> CatalogServiceClient<Transport> {
        CatalogServiceClient::new(self.transport())
    }

    /// Keys and certificates.
    #[must_use]
    pub fn access(&self) -> AccessServiceClient<Transport> {
        AccessServiceClient::new(self.transport())
    }

    /// Bills.
    #[must_use]
    pub fn billing(&self) -> BillingServiceClient<Transport> {
        BillingServiceClient::new(self.transport())
    }

    /// Tenants.
    #[must_use]
    pub fn organizations(&self) -> OrganizationServiceClient<Transport> {
        OrganizationServiceClient::new(self.transport())
    }

    /// Audit entries.
    #[must_use]
    pub fn audit(&self) -> AuditServiceClient<Transport> {
        AuditServiceClient::new(self.transport())
    }

    /// GPU telemetry.
    #[must_use]
    pub fn telemetry(&self) -> TelemetryServiceClient<Transport> {
        TelemetryServiceClient::new(self.transport())
    }

    /// Reserves.
    ///
    /// # Errors
    /// What the control plane says.
    pub async fn create(&self, request: v1::CreateLeaseRequest) -> Result<v1::Lease, Status> {
        let response = self.leases().create_lease(request).await?;
        Ok(response.into_inner())
    }

    /// Asks for a lease.
    ///
    /// # Errors
    /// What the control plane says.
    pub async fn lease(&self, id: &str) -> Result<v1::Lease, Status> {
        let request = v1::GetLeaseRequest {
            lease: id.to_owned(),
            ..Default::default()
        };
        Ok(self.leases().get_lease(request).await?.into_inner())
    }

    /// Ends a lease.
    ///
    /// # Errors
    /// What the control plane says.
    pub async fn end(&self, id: &str) -> Result<v1::Lease, Status> {
        let request = v1::EndLeaseRequest {
            lease: id.to_owned(),
            ..Default::default()
        };
        Ok(self.leases().end_lease(request).await?.into_inner())
    }

    /// Waits until a lease is as wanted. Calls that fail meanwhile, as while a replica is down, are repeated.
    ///
    /// # Panics
    /// When it is not within a minute, with the lease as it was last.
    pub async fn wait_for(
        &self,
        id: &str,
        what: &str,
        is_so: impl Fn(&v1::Lease) -> bool,
    ) -> v1::Lease {
        until(what, wait::SOON, || async {
            let lease = self.lease(id).await.map_err(|status| status.to_string())?;
            if is_so(&lease) {
                Ok(lease)
            } else {
                Err(format!("{lease:?}"))
            }
        })
        .await
    }

    /// Waits until every instance is usable.
    ///
    /// # Panics
    /// When the lease is over instead, or is not active within a minute.
    pub async fn wait_until_active(&self, id: &str) -> v1::Lease {
        let is_decided = |lease: &v1::Lease| {
            let state = lease.state();
            assert!(
                !matches!(state, v1::LeaseState::Failed | v1::LeaseState::Ended),
                "the lease is not active: {lease:?}"
            );
            state == v1::LeaseState::Active
        };
        self.wait_for(id, "the lease is active", is_decided).await
    }

    /// Waits until access is off, the scrubs have ended and the last usage records are posted.
    pub async fn wait_until_settled(&self, id: &str) -> v1::Lease {
        let is_settled = |lease: &v1::Lease| lease.settle_time.is_some();
        self.wait_for(id, "the lease is settled", is_settled).await
    }

    /// Reserves one instance from now on, open-ended, and waits until it is usable.
    ///
    /// # Panics
    /// When it does not come to that.
    pub async fn active_lease(&self) -> v1::Lease {
        let lease = self.create(open_ended()).await.expect("a lease");
        self.wait_until_active(&lease.id).await
    }

    /// Every usage record of a lease, reversals included.
    ///
    /// # Panics
    /// When the control plane does not tell.
    pub async fn usage(&self, lease: &str) -> Vec<v1::UsageRecord> {
        let request = v1::ListUsageRecordsRequest {
            lease: lease.to_owned(),
            page_size: 1000,
            ..Default::default()
        };
        let listed = self.billing().list_usage_records(request).await;
        listed.expect("usage records").into_inner().usage_records
    }
}

/// One instance from now on, without an end.
#[must_use]
pub fn open_ended() -> v1::CreateLeaseRequest {
    v1::CreateLeaseRequest {
        instance_type: TYPE.to_owned(),
        ..Default::default()
    }
}
