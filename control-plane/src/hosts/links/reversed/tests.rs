use std::{
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering},
};

use http_body_util::Full;
use hyper::{Response, body::Incoming, service::service_fn};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::*;

/// An agent: answers `CONNECT` with an echo for `known`, with 404 for others, and serves until the connection ends.
async fn serve(stream: DuplexStream, known: InstanceId) {
    let service = service_fn(move |mut request: Request<Incoming>| async move {
        let status = match request.uri().authority().map(http::uri::Authority::as_str) {
            Some(authority) if authority == format!("{known}:ssh") => StatusCode::OK,
            _ => StatusCode::NOT_FOUND,
        };
        if status == StatusCode::OK {
            tokio::spawn(async move {
                let upgraded = hyper::upgrade::on(&mut request).await.unwrap();
                let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
                let _ = writer.shutdown().await;
            });
        }
        let mut response = Response::new(Full::<Bytes>::default());
        *response.status_mut() = status;
        Ok::<_, Infallible>(response)
    });
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

struct Fixture {
    reversed: Arc<Reversed>,
    host: HostId,
    instance: InstanceId,
    dials: AtomicUsize,
}

impl Fixture {
    fn new() -> Self {
        Self::with(Reversed::default())
    }

    fn with(reversed: Reversed) -> Self {
        Self {
            reversed: Arc::new(reversed),
            host: HostId::new(),
            instance: InstanceId::new(),
            dials: AtomicUsize::new(0),
        }
    }

    /// What an agent does at a `Dial`; returns what ends its side.
    fn dial_back(&self) -> tokio::task::AbortHandle {
        self.dials.fetch_add(1, Ordering::SeqCst);
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let serving = tokio::spawn(serve(theirs, self.instance));
        let (reversed, host) = (Arc::clone(&self.reversed), self.host);
        tokio::spawn(async move {
            let cancel = CancellationToken::new();
            let _ = reversed.accept(host, ours, cancel).await;
        });
        serving.abort_handle()
    }

    async fn open(&self, instance: InstanceId) -> Result<Stream> {
        let dial = || {
            self.dial_back();
            Ok(())
        };
        self.reversed
            .open_ssh(self.host, instance, || Some(1), dial)
            .await
    }

    fn dials(&self) -> usize {
        self.dials.load(Ordering::SeqCst)
    }
}

async fn echoes(stream: &mut Stream) {
    let sent: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let write = async {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let (_, read) = tokio::join!(write, reader.read_to_end(&mut got));
    read.unwrap();
    assert!(got == sent, "the same bytes come back");
}

#[tokio::test]
async fn streams_that_are_opened_at_once_share_one_dial_and_one_connection() {
    let fixture = Fixture::new();
    let opening = (0..20).map(|_| fixture.open(fixture.instance));
    let streams = futures_util::future::join_all(opening).await;
    for stream in streams {
        echoes(&mut stream.unwrap()).await;
    }
    assert_eq!(fixture.dials(), 1);
    let missing = fixture.open(InstanceId::new()).await.err().unwrap();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert_eq!(fixture.dials(), 1);
}

#[tokio::test]
async fn a_dead_connection_is_dialled_again() {
    let fixture = Fixture::new();
    let agent = fixture.dial_back();
    while fixture
        .reversed
        .slot(fixture.host)
        .current
        .borrow()
        .is_none()
    {
        tokio::task::yield_now().await;
    }
    agent.abort();
    echoes(&mut fixture.open(fixture.instance).await.unwrap()).await;
    assert_eq!(fixture.dials(), 2);
}

#[tokio::test]
async fn an_agent_that_does_not_dial_back_is_given_up_on() {
    let reversed = Reversed {
        dial_timeout: Duration::from_millis(100),
        ..Reversed::default()
    };
    let (host, instance) = (HostId::new(), InstanceId::new());
    let dials = AtomicUsize::new(0);
    let silent = || {
        dials.fetch_add(1, Ordering::SeqCst);
        Ok(())
    };
    let open = || reversed.open_ssh(host, instance, || Some(1), silent);
    let (one, other) = tokio::join!(open(), open());
    for error in [one.err().unwrap(), other.err().unwrap()] {
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
    assert_eq!(dials.load(Ordering::SeqCst), 1);
    let error = reversed.open_ssh(host, instance, || None, || Ok(())).await;
    assert_eq!(error.err().unwrap().kind(), ErrorKind::NotConnected);
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_one_with_a_stream_is_not() {
    let idle = Duration::from_millis(100);
    let fixture = Fixture::with(Reversed {
        idle,
        ..Reversed::default()
    });
    let mut stream = fixture.open(fixture.instance).await.unwrap();
    tokio::time::sleep(idle * 3).await;
    stream.write_all(b"!").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'!');
    drop(stream);
    let slot = fixture.reversed.slot(fixture.host);
    let mut current = slot.current.subscribe();
    let closed = current.wait_for(Option::is_none);
    tokio::time::timeout(Duration::from_secs(10), closed)
        .await
        .unwrap()
        .unwrap();
    echoes(&mut fixture.open(fixture.instance).await.unwrap()).await;
    assert_eq!(fixture.dials(), 2);
}
