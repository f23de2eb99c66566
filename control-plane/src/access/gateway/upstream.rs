//! The inner hop: SSH from the gateway to the sshd of an instance.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{TimeDelta, Utc};
use freehold_proto::id::{HostId, InstanceId, LeaseId};
use futures_util::future::BoxFuture;
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::{
    Channel, ChannelOpenFailure, SshId, cipher,
    client::{self, AuthResult, ChannelOpenHandle, Config, Msg},
    keys::{Algorithm, EcdsaCurve, HashAlg, PrivateKey, PublicKeyOrCertificate},
    server,
};

use super::{
    auth::Place,
    connection::Connection,
    relay::{self, Outer},
};
use crate::{
    access::ca::{self, Grant},
    app::App,
    hosts::links::ByteStream,
};

/// From the first byte to the login; sshd itself allows two minutes.
const HANDSHAKE: Duration = Duration::from_secs(20);
/// Life of the gateway's own certificates: a login's time and clocks that differ.
const CERTIFICATE_LIFE: TimeDelta = TimeDelta::minutes(5);
/// An instance that answers none of three in a row is gone.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Windows of channels towards the gateway, in bytes.
const WINDOW: u32 = 2 * 1024 * 1024;
/// What a host certificate may be for.
const HOST_KEYS: [Algorithm; 6] = [
    Algorithm::Ed25519,
    Algorithm::Ecdsa {
        curve: EcdsaCurve::NistP256,
    },
    Algorithm::Ecdsa {
        curve: EcdsaCurve::NistP384,
    },
    Algorithm::Ecdsa {
        curve: EcdsaCurve::NistP521,
    },
    Algorithm::Rsa {
        hash: Some(HashAlg::Sha512),
    },
    Algorithm::Rsa {
        hash: Some(HashAlg::Sha256),
    },
];

/// Why a login to an instance did not work.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No bytes came from the instance, or they stopped coming.
    #[error("{0}")]
    Unreachable(String),
    /// Something answered, and it was no sshd that lets the platform in.
    #[error("{0}")]
    Refused(String),
}

type Open =
    dyn Fn(HostId, InstanceId) -> BoxFuture<'static, io::Result<Box<dyn ByteStream>>> + Send + Sync;

/// Reaches instances. Cheap to clone.
#[derive(Clone)]
pub(super) struct Dialer {
    app: App,
    open: Arc<Open>,
}

/// Who logs in where.
pub(super) struct Login<'a> {
    pub(super) place: Place,
    pub(super) lease: LeaseId,
    pub(super) login: &'a str,
    /// For the instance's log.
    pub(super) holder: &'a str,
    /// Messages that one of its channels may hold before all of them wait.
    pub(super) channel_messages: usize,
}

/// An SSH connection to an instance. It ends with its last handle and channel.
pub(super) type Link = client::Handle<ClientSide>;

impl Dialer {
    /// Through the connections of agents to this replica.
    pub(super) fn through_agents(app: &App) -> Self {
        let links = app.links.clone();
        Self::new(app, move |host, instance| {
            let links = links.clone();
            Box::pin(async move { links.open_ssh(host, instance).await })
        })
    }

    pub(super) fn new(
        app: &App,
        open: impl Fn(HostId, InstanceId) -> BoxFuture<'static, io::Result<Box<dyn ByteStream>>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self {
            app: app.clone(),
            open: Arc::new(open),
        }
    }

    /// Opens a byte stream to an instance's sshd.
    pub(super) async fn stream(&self, place: Place) -> Result<Box<dyn ByteStream>, ProbeError> {
        (self.open)(place.host, place.instance)
            .await
            .map_err(|error| ProbeError::Unreachable(error.to_string()))
    }

    /// Logs in to an instance. Channels that it opens by itself are carried on to `back`.
    pub(super) async fn log_in(
        &self,
        login: &Login<'_>,
        back: Option<Back>,
    ) -> Result<Link, ProbeError> {
        let stream = self.stream(login.place).await?;
        tokio::time::timeout(HANDSHAKE, self.shake_hands(stream, login, back))
            .await
            .unwrap_or_else(|_| {
                Err(ProbeError::Unreachable(format!(
                    "the instance's sshd did not complete a login within {} s",
                    HANDSHAKE.as_secs()
                )))
            })
    }

    async fn shake_hands(
        &self,
        stream: Box<dyn ByteStream>,
        login: &Login<'_>,
        back: Option<Back>,
    ) -> Result<Link, ProbeError> {
        let unreachable =
            |error: russh::Error| ProbeError::Unreachable(format!("the instance's sshd: {error}"));
        let internal = |error| ProbeError::Unreachable(format!("signing a certificate: {error}"));
        let wrong_key = Arc::<Mutex<Option<String>>>::default();
        let side = ClientSide {
            app: self.app.clone(),
            instance: login.place.instance,
            back,
            wrong_key: wrong_key.clone(),
        };
        let connected = client::connect_stream(config(login.channel_messages), stream, side).await;
        let mut link = connected.map_err(|error| {
            let wrong = wrong_key
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            wrong.map_or_else(|| unreachable(error), ProbeError::Refused)
        })?;
        let key = Arc::new(PrivateKey::from(Ed25519Keypair::from_seed(&rand::random())));
        let now = Utc::now();
        let grant = Grant {
            lease: login.lease,
            login: login.login,
            holder: login.holder,
            now,
            end: now + CERTIFICATE_LIFE,
        };
        let public = key.public_key().key_data().clone();
        let certificate = ca::certify_user(&self.app, public, &grant).map_err(internal)?;
        match link
            .authenticate_openssh_cert(login.login, key, certificate)
            .await
            .map_err(unreachable)?
        {
            AuthResult::Success => Ok(link),
            AuthResult::Failure { .. } => Err(ProbeError::Refused(format!(
                "the instance's sshd does not let `{}` in; its configuration or its clock was changed",
                login.login
            ))),
        }
    }
}

fn config(channel_messages: usize) -> Arc<Config> {
    let mut config = Config {
        client_id: SshId::Standard("SSH-2.0-Freehold".into()),
        window_size: WINDOW,
        channel_buffer_size: channel_messages,
        keepalive_interval: Some(KEEPALIVE),
        ..Config::default()
    };
    config.preferred.host_key_certificates = HOST_KEYS.as_slice().into();
    // Processors have instructions for this one.
    config
        .preferred
        .cipher
        .to_mut()
        .sort_by_key(|cipher| *cipher != cipher::AES_256_GCM);
    Arc::new(config)
}

/// Where channels go that an instance opens: forwarded ports and agents.
#[derive(Clone)]
pub(super) struct Back {
    pub(super) connection: Arc<Connection>,
    pub(super) client: server::Handle,
}

/// The gateway as an instance's client.
pub(super) struct ClientSide {
    app: App,
    instance: InstanceId,
    back: Option<Back>,
    /// Why the key of whatever answered was refused.
    wrong_key: Arc<Mutex<Option<String>>>,
}

impl ClientSide {
    /// Carries a channel that the instance opened on to the client, which opens its end with `open`.
    fn carry_back<F, Fut>(&self, inner: Channel<Msg>, reply: ChannelOpenHandle, open: F)
    where
        F: FnOnce(server::Handle) -> Fut,
        Fut: Future<Output = Result<Channel<server::Msg>, russh::Error>> + Send + 'static,
    {
        // Dropping the reply refuses the channel.
        let Some(back) = self.back.clone() else {
            return;
        };
        let opening = open(back.client.clone());
        let connection = back.connection.clone();
        back.connection.spawn(async move {
            let Ok(outer) = opening.await else {
                reply.reject(ChannelOpenFailure::ConnectFailed).await;
                return;
            };
            reply.accept().await;
            let outer = Outer::new(connection, outer, back.client);
            relay::carry(outer, inner).await;
        });
    }
}

impl client::Handler for ClientSide {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        key: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        let name = self.instance.to_string();
        let now = ca::seconds(Utc::now()).unwrap_or(0);
        let known = key
            .certificate()
            .is_some_and(|it| self.app.pki.ssh_host_ca.vouches_for(it, &name, now));
        if !known {
            let words = "the instance's sshd does not show the host certificate that the platform gave it; its configuration was changed";
            let mut wrong = self
                .wrong_key
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *wrong = Some(words.to_owned());
        }
        Ok(known)
    }

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        channel: Channel<Msg>,
        connected_address: &str,
        connected_port: u32,
        originator_address: &str,
        originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), Self::Error> {
        let (address, originator) = (connected_address.to_owned(), originator_address.to_owned());
        self.carry_back(channel, reply, |client| async move {
            client
                .channel_open_forwarded_tcpip(address, connected_port, originator, originator_port)
                .await
        });
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        socket_path: &str,
        reply: ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), Self::Error> {
        let path = socket_path.to_owned();
        self.carry_back(channel, reply, |client| async move {
            client.channel_open_forwarded_streamlocal(path).await
        });
        Ok(())
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), Self::Error> {
        self.carry_back(channel, reply, |client| async move {
            client.channel_open_agent().await
        });
        Ok(())
    }
}
