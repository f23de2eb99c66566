//! Calls by path with bytes for a body: what a sweep over all RPCs makes.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use freehold_tests::client::Client;
use tonic::{
    Request, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
};

/// Leaves bytes as they are.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = buffer.remaining();
        Ok(Some(buffer.copy_to_bytes(length)))
    }
}

/// Makes a call and returns its first answer.
pub(crate) async fn call(
    client: &Client,
    path: &'static str,
    body: Vec<u8>,
) -> Result<Bytes, Status> {
    let mut grpc = tonic::client::Grpc::new(client.transport()).max_encoding_message_size(8 << 20);
    grpc.ready()
        .await
        .map_err(|error| Status::unavailable(format!("{error:?}")))?;
    let request = Request::new(Bytes::from(body));
    // A unary answer is a stream of one; a stream's first answer is enough.
    let uri = PathAndQuery::from_static(path);
    let answered = async {
        let mut answers = grpc.server_streaming(request, uri, Raw).await?.into_inner();
        let first = answers.message().await?;
        first.ok_or_else(|| Status::internal("an empty answer"))
    };
    tokio::time::timeout(Duration::from_secs(30), answered)
        .await
        .unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("{path} says nothing"))))
}
