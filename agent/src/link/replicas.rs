//! The replicas that are connected, and the calls that any of them can answer.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use freehold_proto::{
    agent_v1::{
        CertifyHostKeyRequest, RenewRequest, RenewResponse, link_service_client::LinkServiceClient,
    },
    id::InstanceId,
};
use tonic::{Code, Response, Status, transport::Channel};

use crate::model::{CertifyError, HostKeyCertifier};

/// How long a replica may take to answer before the next is asked.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The connected replicas. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Replicas {
    channels: Arc<Mutex<BTreeMap<String, Channel>>>,
}

impl Replicas {
    /// Adds a replica for as long as the returned guard lives.
    pub(super) fn add(&self, address: &str, channel: Channel) -> Connected {
        self.lock().insert(address.to_owned(), channel);
        Connected {
            replicas: self.clone(),
            address: address.to_owned(),
        }
    }

    /// Has a signing request signed by any replica.
    ///
    /// # Errors
    /// What the replicas said, or that there is none.
    pub async fn renew(&self, csr_pem: String) -> Result<RenewResponse, String> {
        self.ask(|mut client| {
            let request = RenewRequest {
                csr_pem: csr_pem.clone(),
            };
            async move { client.renew(request).await }
        })
        .await
        .map_err(|status| status.message().to_owned())
    }

    /// Asks one replica after the other until one answers. A refusal is an answer.
    async fn ask<T, F>(&self, call: impl Fn(LinkServiceClient<Channel>) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let channels: Vec<Channel> = self.lock().values().cloned().collect();
        let mut last = Status::unavailable("not connected to any");
        for channel in channels {
            let answer = call(LinkServiceClient::new(channel));
            match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) if is_refusal(status.code()) => return Err(status),
                Ok(Err(status)) => last = status,
                Err(_) => last = Status::deadline_exceeded("no answer within 10 s"),
            }
        }
        Err(last)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Channel>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether another replica would say the same.
fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
    )
}

/// A replica is connected while this lives.
#[derive(Debug)]
pub(super) struct Connected {
    replicas: Replicas,
    address: String,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.replicas.lock().remove(&self.address);
    }
}

#[async_trait::async_trait]
impl HostKeyCertifier for Replicas {
    async fn certify(
        &self,
        instance: InstanceId,
        public_key: &str,
    ) -> Result<String, CertifyError> {
        let answer = self.ask(|mut client| {
            let request = CertifyHostKeyRequest {
                instance_id: instance.to_string(),
                public_key: public_key.to_owned(),
            };
            async move { client.certify_host_key(request).await }
        });
        let explain = |status: Status| match status.code() {
            code if is_refusal(code) => CertifyError::Refused(status.message().to_owned()),
            _ => CertifyError::Unreachable(status.message().to_owned()),
        };
        Ok(answer.await.map_err(explain)?.certificate)
    }
}
