//! The network between agents and a replica: a TCP proxy in front of its agent listener that can be cut and healed.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// What the network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Whole,
    /// Connections break, and new ones are refused.
    Cut,
    /// Connections stay and carry nothing.
    Silent,
}

/// The proxy. It ends when dropped.
#[derive(Debug)]
pub struct Cut {
    port: u16,
    state: Arc<watch::Sender<State>>,
    task: JoinHandle<()>,
}

impl Cut {
    /// A whole network in front of `target`, on a free port.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn before(target: u16) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(watch::Sender::new(State::Whole));
        let task = tokio::spawn(accept(listener, target, Arc::clone(&state)));
        Ok(Self { port, state, task })
    }

    /// Where agents connect.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Breaks every connection and refuses new ones.
    pub fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    /// Every connection stays and carries nothing any more, as when a cable is pulled.
    pub fn silence(&self) {
        self.state.send_replace(State::Silent);
    }

    /// Everything works again.
    pub fn heal(&self) {
        self.state.send_replace(State::Whole);
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        self.task.abort();
        self.state.send_replace(State::Cut);
    }
}

async fn accept(listener: TcpListener, target: u16, state: Arc<watch::Sender<State>>) {
    while let Ok((agent, _)) = listener.accept().await {
        if *state.borrow() == State::Cut {
            continue;
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, target));
        // The replica is down: the agent's connection is closed again.
        let Ok(replica) = TcpStream::connect(address).await else {
            continue;
        };
        let (from_agent, to_agent) = agent.into_split();
        let (from_replica, to_replica) = replica.into_split();
        tokio::spawn(carry(from_agent, to_replica, state.subscribe()));
        tokio::spawn(carry(from_replica, to_agent, state.subscribe()));
    }
}

/// Carries one direction until it ends or the network is cut.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        if state.wait_for(|now| *now != State::Silent).await.is_err() {
            return;
        }
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            _ = state.wait_for(|now| *now == State::Cut) => return,
        };
        let Some(bytes) = read.ok().and_then(|length| buffer.get(..length)) else {
            return;
        };
        if bytes.is_empty() || state.wait_for(|now| *now != State::Silent).await.is_err() {
            return;
        }
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}
