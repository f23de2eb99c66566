//! Carries channels: messages of the client's channel to the instance's and back, in order, no faster than the receiver takes them.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use russh::{
    Channel, ChannelId, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Pty, client,
    server::{self, Msg},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

use super::{connection::Connection, upstream::ProbeError};
use crate::hosts::links::ByteStream;

/// How long what a client sent before it closed a channel may take to be delivered.
const LINGER: Duration = Duration::from_secs(30);
/// Extended data of this kind is what a command writes to its standard error.
const STDERR: u32 = 1;
/// Bytes that are read from a stream at once: a packet.
const CHUNK: usize = 32 * 1024;

/// The client's end of a channel.
pub(super) struct Outer {
    read: ChannelReadHalf,
    end: ClientEnd,
}

/// What is sent to the client. The channel is counted for as long as this lives.
struct ClientEnd {
    connection: Arc<Connection>,
    /// Cancelled when the client closes the channel.
    closed: CancellationToken,
    id: ChannelId,
    write: ChannelWriteHalf<Msg>,
    client: server::Handle,
}

impl Drop for ClientEnd {
    fn drop(&mut self) {
        self.connection.forget_channel(self.id);
    }
}

impl Outer {
    pub(super) fn new(
        connection: Arc<Connection>,
        channel: Channel<Msg>,
        client: server::Handle,
    ) -> Self {
        let id = channel.id();
        let (read, write) = channel.split();
        let end = ClientEnd {
            closed: connection.open_channel(id),
            connection,
            id,
            write,
            client,
        };
        Self { read, end }
    }

    /// Tells the client's user what went wrong, and ends the session as ssh ends when it fails by itself.
    pub(super) async fn apologise(self, error: &ProbeError) {
        self.end.complain(&error.to_string()).await;
        let _ = self.end.write.exit_status(255).await;
        let _ = self.end.write.close().await;
    }
}

impl ClientEnd {
    async fn complain(&self, words: &str) {
        let line = format!("freehold: {words}\r\n");
        let _ = self.write.extended_data_bytes(STDERR, line).await;
    }

    /// Bytes from the client were passed on.
    fn taken(&self, bytes: usize) {
        self.connection.backlog.taken(self.id, bytes);
    }
}

/// Carries a channel until one side closes it or is lost.
pub(super) async fn carry(outer: Outer, inner: Channel<client::Msg>) {
    let Outer { mut read, end } = outer;
    let (mut inner_read, inner_write) = inner.split();
    tokio::select! {
        () = up(&end, &mut read, &inner_write) => {}
        lost = down(&mut inner_read, &end) => {
            if lost {
                end.complain("the connection to the instance was lost").await;
            }
        }
        () = lingered(&end.closed) => {}
    }
    let _ = inner_write.close().await;
    let _ = end.write.close().await;
}

/// Returns a while after the client closed its channel: what it sent before is still on its way.
async fn lingered(closed: &CancellationToken) {
    closed.cancelled().await;
    tokio::time::sleep(LINGER).await;
}

/// Client to instance, until the client closes.
async fn up(end: &ClientEnd, outer: &mut ChannelReadHalf, inner: &ChannelWriteHalf<client::Msg>) {
    while let Some(message) = outer.wait().await {
        let sent = match message {
            ChannelMsg::Data { data } => {
                let length = data.len();
                let sent = inner.data_bytes(data).await;
                end.taken(length);
                sent
            }
            ChannelMsg::ExtendedData { data, ext } => {
                let length = data.len();
                let sent = inner.extended_data_bytes(ext, data).await;
                end.taken(length);
                sent
            }
            ChannelMsg::Eof => inner.eof().await,
            ChannelMsg::Close => return,
            request => ask(inner, request).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Passes a request on. Only those that start something are answered by the instance: the others were answered when they came.
async fn ask(
    inner: &ChannelWriteHalf<client::Msg>,
    request: ChannelMsg,
) -> Result<(), russh::Error> {
    match request {
        ChannelMsg::RequestPty {
            term,
            col_width,
            row_height,
            pix_width,
            pix_height,
            mut terminal_modes,
            ..
        } => {
            // Modes that russh does not know come as the mark of the end, which would hide those behind them.
            terminal_modes.retain(|(mode, _)| *mode != Pty::TTY_OP_END);
            inner
                .request_pty(
                    false,
                    &term,
                    col_width,
                    row_height,
                    pix_width,
                    pix_height,
                    &terminal_modes,
                )
                .await
        }
        ChannelMsg::RequestShell { .. } => inner.request_shell(true).await,
        ChannelMsg::Exec { command, .. } => inner.exec(true, command).await,
        ChannelMsg::RequestSubsystem { name, .. } => inner.request_subsystem(true, name).await,
        ChannelMsg::SetEnv {
            variable_name,
            variable_value,
            ..
        } => inner.set_env(false, variable_name, variable_value).await,
        ChannelMsg::WindowChange {
            col_width,
            row_height,
            pix_width,
            pix_height,
        } => {
            inner
                .window_change(col_width, row_height, pix_width, pix_height)
                .await
        }
        ChannelMsg::Signal { signal } => inner.signal(signal).await,
        ChannelMsg::AgentForward { .. } => inner.agent_forward(false).await,
        _ => Ok(()),
    }
}

/// Instance to client. False: the instance closed the channel; true: the connection to it was lost.
async fn down(inner: &mut ChannelReadHalf, end: &ClientEnd) -> bool {
    let (id, write, client) = (end.id, &end.write, &end.client);
    while let Some(message) = inner.wait().await {
        // A client that is gone is noticed by the other direction.
        let _ = match message {
            ChannelMsg::Data { data } => write.data_bytes(data).await,
            ChannelMsg::ExtendedData { data, ext } => write.extended_data_bytes(ext, data).await,
            ChannelMsg::Eof => write.eof().await,
            ChannelMsg::ExitStatus { exit_status } => write.exit_status(exit_status).await,
            ChannelMsg::ExitSignal {
                signal_name,
                core_dumped,
                error_message,
                lang_tag,
            } => client
                .exit_signal_request(id, signal_name, core_dumped, error_message, lang_tag)
                .await
                .map_err(|()| russh::Error::SendError),
            ChannelMsg::Success => client
                .channel_success(id)
                .await
                .map_err(|()| russh::Error::SendError),
            ChannelMsg::Failure => client
                .channel_failure(id)
                .await
                .map_err(|()| russh::Error::SendError),
            ChannelMsg::Close => return false,
            _ => Ok(()),
        };
    }
    true
}

/// Carries a channel to a byte stream, for `ssh -J`.
pub(super) async fn carry_stream(outer: Outer, stream: Box<dyn ByteStream>) {
    let Outer { mut read, end } = outer;
    let (mut inner_read, mut inner_write) = tokio::io::split(stream);
    let up = async {
        while let Some(message) = read.wait().await {
            match message {
                ChannelMsg::Data { data } => {
                    if inner_write.write_all(&data).await.is_err()
                        || inner_write.flush().await.is_err()
                    {
                        return;
                    }
                    end.taken(data.len());
                }
                ChannelMsg::Eof => {
                    let _ = inner_write.shutdown().await;
                }
                ChannelMsg::Close => return,
                _ => {}
            }
        }
    };
    let down = async {
        let mut buffer = vec![0; CHUNK];
        while let Ok(length @ 1..) = inner_read.read(&mut buffer).await {
            let data = Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default());
            if end.write.data_bytes(data).await.is_err() {
                return;
            }
        }
        let _ = end.write.eof().await;
    };
    tokio::select! {
        () = up => {}
        () = down => {}
        () = lingered(&end.closed) => {}
    }
    let _ = end.write.close().await;
}
