//! Byte streams through the agent listener: the test is the agent, and turns the connection round.

use std::{convert::Infallible, io::ErrorKind};

use bytes::Bytes;
use freehold_proto::id::InstanceId;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// Serves one connection: an instance's id decides the answer.
async fn turn_round(stream: TlsStream<TcpStream>, echo: InstanceId, stopped: InstanceId) {
    let service = service_fn(move |mut request: Request<Incoming>| async move {
        let authority = request.uri().authority().map(ToString::to_string).unwrap();
        let status = match authority.strip_suffix(":ssh") {
            Some(id) if id == echo.to_string() => 200,
            Some(id) if id == stopped.to_string() => 409,
            _ => 404,
        };
        if status == 200 {
            tokio::spawn(async move {
                let upgraded = hyper::upgrade::on(&mut request).await.unwrap();
                let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
        let mut response = Response::new(Full::<Bytes>::default());
        *response.status_mut() = status.try_into().unwrap();
        Ok::<_, Infallible>(response)
    });
    let _ = http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

#[tokio::test]
async fn a_stream_to_an_instance_goes_over_a_connection_that_the_agent_dials() {
    let app = testing::app().await;
    let enlisted = Enlisted::new(&app, "gpu-1").await;
    let (echo, stopped) = (InstanceId::new(), InstanceId::new());
    let error = app.links.open_ssh(enlisted.host, echo).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotConnected);
    let mut stream = enlisted.welcome(&app, hello(&["a"])).await;
    let reverse = enlisted.machine.tls(
        &app,
        &enlisted.certificate_pem,
        freehold_proto::REVERSE_ALPN,
    );
    let address = enlisted.address.clone();
    let agent = tokio::spawn(async move {
        let mut dials = 0;
        while let Ok(Some(message)) = stream.next().await {
            if matches!(message, ToAgent::Dial(_)) {
                dials += 1;
                let dialled = dial(&address, Arc::clone(&reverse)).await.unwrap();
                tokio::spawn(turn_round(dialled, echo, stopped));
            }
            if dials == 1 {
                break;
            }
        }
        stream
    });
    let mut bytes = soon("a stream", app.links.open_ssh(enlisted.host, echo))
        .await
        .unwrap();
    bytes.write_all(b"SSH-2.0-x").await.unwrap();
    let mut got = [0; 9];
    soon("the echo", bytes.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"SSH-2.0-x");
    for (instance, kind) in [
        (stopped, ErrorKind::ConnectionRefused),
        (InstanceId::new(), ErrorKind::NotFound),
    ] {
        let error = app
            .links
            .open_ssh(enlisted.host, instance)
            .await
            .err()
            .unwrap();
        assert_eq!(error.kind(), kind);
    }
    // The control stream goes, and the bytes stay.
    drop(agent.await.unwrap());
    let gone = "select not exists (select 1 from agent_session)";
    until(&app, "the session is forgotten", gone).await;
    bytes.write_all(b"!").await.unwrap();
    assert_eq!(soon("the echo", bytes.read_u8()).await.unwrap(), b'!');
}

#[tokio::test]
async fn a_reversed_connection_with_a_revoked_certificate_is_closed() {
    let app = testing::app().await;
    let enlisted = Enlisted::new(&app, "gpu-1").await;
    sqlx::query("update agent_certificate set revoked_at = now()")
        .execute(&app.pool)
        .await
        .unwrap();
    let reverse = enlisted.machine.tls(
        &app,
        &enlisted.certificate_pem,
        freehold_proto::REVERSE_ALPN,
    );
    let mut dialled = dial(&enlisted.address, reverse).await.unwrap();
    let mut rest = Vec::new();
    let read = soon("the end", dialled.read_to_end(&mut rest)).await;
    assert!(rest.is_empty(), "no preface of HTTP/2: {read:?}");
}
