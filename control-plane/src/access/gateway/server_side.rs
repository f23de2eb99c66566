//! The gateway as its clients' server: what each request leads to. Nothing here waits for an instance but the answer to a listener, which has to be
//! known at once.

use std::{sync::Arc, time::Duration};

use russh::{
    Channel, ChannelId, ChannelOpenFailure, Disconnect, Pty,
    keys::Certificate,
    server::{
        self, Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey,
    },
};

use super::{
    auth::{self, UserName, Verdict},
    connection::{Connection, Listener},
    relay::{self, Outer},
    upstream::Link,
};
use crate::{app::App, error::Result};

/// Channels of one connection.
const MAX_CHANNELS: usize = 512;
/// How long a listener may take to be there.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(15);
/// The port that `ssh -J` asks for.
const SSH_PORT: u32 = 22;

/// See the module.
pub(super) struct ServerSide {
    app: App,
    connection: Arc<Connection>,
    /// What a client that proved to belong to a lease is told before it is sent away.
    refusal: Option<String>,
}

impl ServerSide {
    pub(super) fn new(app: App, connection: Arc<Connection>) -> Self {
        Self {
            app,
            connection,
            refusal: None,
        }
    }

    /// Acts on a verdict. Who is refused with words logs in first: only then can it be told.
    fn act(&mut self, verdict: Result<Verdict>) -> Auth {
        match &verdict {
            Ok(Verdict::Admitted(_)) => self.app.ssh.count_admitted(),
            _ => self.app.ssh.count_refused(),
        }
        match verdict {
            Ok(Verdict::Stranger) => return Auth::reject(),
            Ok(Verdict::Refused(words)) => self.refusal = Some(words),
            Ok(Verdict::Admitted(admission)) => {
                tracing::info!(
                    lease.id = %admission.lease, instance.id = %admission.place.instance, peer = %self.connection.peer,
                    holder = admission.holder, login = admission.login, "an SSH client was let in"
                );
                self.connection.admit(*admission);
            }
            Err(error) => {
                tracing::warn!(
                    error = format!("{:#}", anyhow::Error::new(error)),
                    "an SSH client cannot be judged"
                );
                return Auth::reject();
            }
        }
        Auth::Accept
    }

    /// Carries a connection that `open` has the instance make.
    fn forward<F, Fut>(
        &self,
        outer: Outer,
        reply: ChannelOpenHandle,
        client: server::Handle,
        open: F,
    ) where
        F: FnOnce(Arc<Link>) -> Fut + Send + 'static,
        Fut: Future<Output = std::result::Result<Channel<russh::client::Msg>, russh::Error>> + Send,
    {
        let connection = self.connection.clone();
        self.connection.spawn(async move {
            let opened = match connection.forward_link(client).await {
                Ok(link) => open(link).await,
                Err(error) => {
                    tracing::debug!(%error, "a connection cannot be forwarded");
                    Err(russh::Error::Disconnect)
                }
            };
            match opened {
                Ok(inner) => {
                    reply.accept().await;
                    relay::carry(outer, inner).await;
                }
                Err(russh::Error::ChannelOpenFailure(reason)) => reply.reject(reason).await,
                Err(_) => reply.reject(ChannelOpenFailure::ConnectFailed).await,
            }
        });
    }

    /// Gives the client a byte stream to the sshd of an instance of its lease, if that is what `target` names.
    async fn jump(&self, target: &str) -> Option<auth::Place> {
        auth::find_place(&self.app, self.connection.admission()?, target).await
    }

    async fn listen(&self, client: server::Handle, listener: Listener) -> Option<u32> {
        let listening = self.connection.listen(client, listener);
        let done = tokio::time::timeout(LISTEN_TIMEOUT, listening).await;
        done.ok()?.ok()
    }

    /// True when another channel would be too many.
    fn is_full(&self) -> bool {
        self.connection.backlog.channels() >= MAX_CHANNELS
    }
}

impl Handler for ServerSide {
    type Error = russh::Error;

    /// Every key is asked to sign: whether it is a certificate's is not known yet, and nobody learns which keys are registered.
    async fn auth_publickey_offered(
        &mut self,
        _user: &str,
        _offer: PublicKeyOffer<'_>,
    ) -> std::result::Result<Auth, Self::Error> {
        Ok(Auth::Accept)
    }

    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> std::result::Result<Auth, Self::Error> {
        let Some(user) = UserName::parse(user) else {
            return Ok(Auth::reject());
        };
        let verdict = auth::judge_key(&self.app, &user, key.public_key).await;
        Ok(self.act(verdict))
    }

    async fn auth_openssh_certificate(
        &mut self,
        user: &str,
        certificate: &Certificate,
    ) -> std::result::Result<Auth, Self::Error> {
        let Some(user) = UserName::parse(user) else {
            return Ok(Auth::reject());
        };
        let verdict = auth::judge_certificate(&self.app, &user, certificate).await;
        Ok(self.act(verdict))
    }

    async fn auth_succeeded(
        &mut self,
        session: &mut Session,
    ) -> std::result::Result<(), Self::Error> {
        match self.refusal.take() {
            Some(words) => session.disconnect(Disconnect::ByApplication, &words, "en"),
            None => Ok(()),
        }
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> std::result::Result<(), Self::Error> {
        if self.is_full() {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        }
        let outer = Outer::new(self.connection.clone(), channel, session.handle());
        // Accepted before the instance is reached, so that words can be said when it is not.
        reply.accept().await;
        let (connection, client) = (self.connection.clone(), session.handle());
        self.connection.spawn(async move {
            let link = match connection.session_link(client).await {
                Ok(link) => link,
                Err(error) => return outer.apologise(&error).await,
            };
            match link.channel_open_session().await {
                Ok(inner) => relay::carry(outer, inner).await,
                Err(error) => {
                    let words = format!("the instance's sshd opens no session: {error}");
                    outer.apologise(&super::ProbeError::Refused(words)).await;
                }
            }
        });
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        originator_address: &str,
        originator_port: u32,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> std::result::Result<(), Self::Error> {
        if self.is_full() {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        }
        let client = session.handle();
        let outer = Outer::new(self.connection.clone(), channel, client.clone());
        let place = if port == SSH_PORT {
            self.jump(host).await
        } else {
            None
        };
        if let Some(place) = place {
            let connection = self.connection.clone();
            self.connection.spawn(async move {
                match connection.dialer.stream(place).await {
                    Ok(stream) => {
                        reply.accept().await;
                        relay::carry_stream(outer, stream).await;
                    }
                    Err(error) => {
                        tracing::debug!(%error, "an instance cannot be reached");
                        reply.reject(ChannelOpenFailure::ConnectFailed).await;
                    }
                }
            });
            return Ok(());
        }
        let (host, originator) = (host.to_owned(), originator_address.to_owned());
        self.forward(outer, reply, client, move |link| async move {
            link.channel_open_direct_tcpip(host, port, originator, originator_port)
                .await
        });
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        socket_path: &str,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> std::result::Result<(), Self::Error> {
        if self.is_full() {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        }
        let client = session.handle();
        let outer = Outer::new(self.connection.clone(), channel, client.clone());
        let path = socket_path.to_owned();
        self.forward(outer, reply, client, move |link| async move {
            link.channel_open_direct_streamlocal(path).await
        });
        Ok(())
    }

    /// A channel that an instance opened is there: what the client sends on it is counted from its first byte.
    async fn channel_open_confirmation(
        &mut self,
        id: ChannelId,
        _max_packet_size: u32,
        _window_size: u32,
        _session: &mut Session,
    ) -> std::result::Result<(), Self::Error> {
        self.connection.open_channel(id);
        Ok(())
    }

    async fn channel_close(
        &mut self,
        channel: ChannelId,
        _session: &mut Session,
    ) -> std::result::Result<(), Self::Error> {
        self.connection.channel_closed(channel);
        Ok(())
    }

    async fn data(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> std::result::Result<(), Self::Error> {
        let backlog = &self.connection.backlog;
        if backlog.queued(channel, data.len()) {
            if let Some(pause) = backlog.pause(channel, data.len()) {
                tokio::time::sleep(pause).await;
            }
            return Ok(());
        }
        session.disconnect(
            Disconnect::ProtocolError,
            "more was sent than the window allows",
            "en",
        )
    }

    async fn extended_data(
        &mut self,
        channel: ChannelId,
        _code: u32,
        data: &[u8],
        session: &mut Session,
    ) -> std::result::Result<(), Self::Error> {
        self.data(channel, data, session).await
    }

    fn adjust_window(&mut self, channel: ChannelId, _current: u32) -> u32 {
        self.connection.backlog.next_window(channel)
    }

    // Clients send requests behind one another, and russh answers only the last one that came: those whose answer is known are answered at once.

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _term: &str,
        _col_width: u32,
        _row_height: u32,
        _pix_width: u32,
        _pix_height: u32,
        _modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> std::result::Result<(), Self::Error> {
        session.channel_success(channel)
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        _name: &str,
        _value: &str,
        session: &mut Session,
    ) -> std::result::Result<(), Self::Error> {
        session.channel_success(channel)
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _single_connection: bool,
        _protocol: &str,
        _cookie: &str,
        _screen: u32,
        session: &mut Session,
    ) -> std::result::Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    async fn agent_request(
        &mut self,
        _channel: ChannelId,
        _session: &mut Session,
    ) -> std::result::Result<bool, Self::Error> {
        Ok(true)
    }

    async fn tcpip_forward(
        &mut self,
        address: &str,
        port: &mut u32,
        session: &mut Session,
    ) -> std::result::Result<bool, Self::Error> {
        let listener = Listener::Tcp(address.to_owned(), *port);
        let given = self.listen(session.handle(), listener).await;
        *port = given.unwrap_or(*port);
        Ok(given.is_some())
    }

    async fn cancel_tcpip_forward(
        &mut self,
        address: &str,
        port: u32,
        _session: &mut Session,
    ) -> std::result::Result<bool, Self::Error> {
        let listener = Listener::Tcp(address.to_owned(), port);
        Ok(self.connection.unlisten(&listener).await)
    }

    async fn streamlocal_forward(
        &mut self,
        socket_path: &str,
        session: &mut Session,
    ) -> std::result::Result<bool, Self::Error> {
        let listener = Listener::Unix(socket_path.to_owned());
        Ok(self.listen(session.handle(), listener).await.is_some())
    }

    async fn cancel_streamlocal_forward(
        &mut self,
        socket_path: &str,
        _session: &mut Session,
    ) -> std::result::Result<bool, Self::Error> {
        let listener = Listener::Unix(socket_path.to_owned());
        Ok(self.connection.unlisten(&listener).await)
    }
}
