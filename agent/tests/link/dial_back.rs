use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use freehold_agent::{model::TargetError, tunnel};
use freehold_proto::{
    agent_v1::{Dial, attach_response::Message as ToAgent},
    id::InstanceId,
};
use http_body_util::Empty;
use hyper::{Method, Request, StatusCode, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_util::sync::CancellationToken;

use crate::{
    host::{Host, Instances},
    pki,
    server::{Replica, free_address},
    soon,
};

type Client = http2::SendRequest<Empty<Bytes>>;

async fn client<S>(stream: S) -> Client
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .expect("the agent serves HTTP/2");
    tokio::spawn(connection);
    client
}

async fn connect(
    client: &mut Client,
    authority: &str,
) -> (StatusCode, hyper::Response<hyper::body::Incoming>) {
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(authority)
        .body(Empty::new())
        .expect("a request");
    let response = soon("an answer", client.send_request(request))
        .await
        .expect("answered");
    (response.status(), response)
}

/// Listens like an sshd that sends back everything it got, once its input ended.
async fn echo_at_the_end() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut got = Vec::new();
                socket.read_to_end(&mut got).await.expect("read");
                socket.write_all(&got).await.expect("written");
            });
        }
    });
    address
}

#[tokio::test]
async fn a_replica_reaches_an_instance_through_the_agents_connection() {
    let dir = tempfile::tempdir().expect("a directory");
    let (server_ca, agent_ca) = (pki::ca("servers"), Arc::new(pki::ca("agents")));
    let identity = pki::identity(&server_ca, &agent_ca, time::Duration::days(30));
    let mut replica = Replica::start(&server_ca, agent_ca).await;
    let host = Host::enrolled(dir.path(), &identity, &[&replica.address]);
    let session = replica.welcomed().await;

    let (running, stopped, silent) = (InstanceId::new(), InstanceId::new(), InstanceId::new());
    let (echo, nobody) = (echo_at_the_end().await, free_address().await);
    {
        let mut targets = host.instances.targets.lock().expect("not poisoned");
        targets.insert(running, Ok(echo));
        targets.insert(stopped, Err(TargetError::NotRunning));
        targets.insert(silent, Ok(nobody));
    }
    let dial_id = "1".to_owned();
    session.send(ToAgent::Dial(Dial { dial_id })).await;
    let stream = soon("the agent dials back", replica.reversed.recv()).await;
    let stream = stream.expect("the replica runs");
    let peer = stream.get_ref().1.peer_certificates().map(<[_]>::to_vec);
    assert_eq!(peer.expect("mutual TLS")[0].to_vec(), session.certificate);
    let mut client = client(stream).await;

    let (status, response) = connect(&mut client, &format!("{running}:ssh")).await;
    assert_eq!(status, StatusCode::OK);
    let upgraded = hyper::upgrade::on(response).await.expect("upgraded");
    let mut bytes = TokioIo::new(upgraded);
    // More than every window, so that flow control works both ways; then only one direction is closed.
    let sent: Vec<u8> = (0_u32..6 << 20).map(|n| (n % 251) as u8).collect();
    let (mut reader, mut writer) = tokio::io::split(&mut bytes);
    let write = async {
        writer.write_all(&sent).await.expect("written");
        writer.shutdown().await.expect("half closed");
    };
    let mut got = Vec::new();
    let (_, read) = soon("the bytes come back", async {
        tokio::join!(write, reader.read_to_end(&mut got))
    })
    .await;
    assert_eq!(read.expect("read"), sent.len());
    assert!(got == sent, "the bytes are the same");

    for (authority, expected) in [
        (format!("{}:ssh", InstanceId::new()), StatusCode::NOT_FOUND),
        (format!("{stopped}:ssh"), StatusCode::CONFLICT),
        (format!("{silent}:ssh"), StatusCode::BAD_GATEWAY),
        (format!("{running}:80"), StatusCode::BAD_REQUEST),
        ("127.0.0.1:22".to_owned(), StatusCode::BAD_REQUEST),
    ] {
        let (status, _) = connect(&mut client, &authority).await;
        assert_eq!(status, expected, "{authority}");
    }
    host.stop().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_one_with_a_stream_is_not() {
    let instances = Arc::new(Instances::default());
    let running = InstanceId::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let target = Ok(listener.local_addr().expect("bound"));
    instances
        .targets
        .lock()
        .expect("not poisoned")
        .insert(running, target);
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let idle_for = Duration::from_millis(100);
    let serving = tokio::spawn(async move {
        tunnel::serve(theirs, instances, idle_for, &CancellationToken::new()).await;
    });
    let mut client = client(ours).await;
    let (status, response) = connect(&mut client, &format!("{running}:ssh")).await;
    assert_eq!(status, StatusCode::OK);
    let (mut inside, _) = soon("a connection inside", listener.accept())
        .await
        .expect("accepted");
    let mut bytes = TokioIo::new(hyper::upgrade::on(response).await.expect("upgraded"));
    let silence = tokio::time::timeout(idle_for * 4, bytes.read_u8()).await;
    assert!(silence.is_err(), "an open stream keeps the connection");
    inside.write_all(b"!").await.expect("written");
    assert_eq!(bytes.read_u8().await.expect("alive"), b'!');
    drop((inside, bytes));
    soon("the idle connection ends", serving)
        .await
        .expect("no panic");
}
