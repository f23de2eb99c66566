//! What an instance looks like from where its tenant stands.

use std::{net::SocketAddr, time::Duration};

use bollard::{
    container::LogOutput,
    exec::{CreateExecOptions, StartExecResults},
};
use futures_util::StreamExt as _;
use tokio::{io::AsyncReadExt as _, net::TcpStream};

use super::{Engine, EngineError};

/// A healthy driver lists eight GPUs in less than 2 s.
const LIST_LIMIT: Duration = Duration::from_secs(15);

/// Whether an sshd accepts there and says who it is.
pub(crate) async fn answers_ssh(target: SocketAddr, within: Duration) -> bool {
    let greeting = async {
        let mut stream = TcpStream::connect(target).await.ok()?;
        let mut begin = [0; 4];
        stream.read_exact(&mut begin).await.ok()?;
        Some(begin)
    };
    let heard = tokio::time::timeout(within, greeting).await;
    matches!(heard, Ok(Some(begin)) if begin == *b"SSH-")
}

/// The GPUs that programs in the container see: what `nvidia-smi -L` lists there, which comes with the driver whatever the image is.
///
/// `Err` with a reason when it cannot be asked or does not answer.
pub(crate) async fn visible_gpus(engine: &Engine, container: &str) -> Result<Vec<String>, String> {
    match tokio::time::timeout(LIST_LIMIT, list(engine, container)).await {
        Ok(Ok(text)) => {
            let found = gpu_uuids(&text);
            if found.is_empty() {
                return Err(format!("nvidia-smi in the instance says: {}", text.trim()));
            }
            Ok(found)
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("nvidia-smi in the instance does not answer within 15 s".to_owned()),
    }
}

async fn list(engine: &Engine, container: &str) -> Result<String, EngineError> {
    let client = engine.client().await?;
    let options = CreateExecOptions {
        cmd: Some(vec!["nvidia-smi", "-L"]),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        user: Some("0"),
        ..CreateExecOptions::default()
    };
    let exec = client.create_exec(container, options).await?;
    let mut text = String::new();
    if let StartExecResults::Attached { mut output, .. } = client.start_exec(&exec.id, None).await?
    {
        while let Some(part) = output.next().await {
            if let LogOutput::StdOut { message } | LogOutput::StdErr { message } = part? {
                text.push_str(&String::from_utf8_lossy(&message));
            }
        }
    }
    Ok(text)
}

/// The UUIDs in lines such as `GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1f2e…)`.
fn gpu_uuids(text: &str) -> Vec<String> {
    let uuid = |line: &str| {
        let (_, rest) = line.split_once("(UUID: ")?;
        let (uuid, _) = rest.split_once(')')?;
        uuid.starts_with("GPU-").then(|| uuid.to_owned())
    };
    text.lines().filter_map(uuid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_read_from_what_nvidia_smi_lists() {
        let text = "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1f2e)\n  MIG 1g.10gb Device 0: (UUID: MIG-77)\n\
                    GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-aa00)\n";
        assert_eq!(gpu_uuids(text), ["GPU-1f2e", "GPU-aa00"]);
        assert!(gpu_uuids("No devices were found").is_empty());
    }

    #[tokio::test]
    async fn only_what_greets_like_ssh_answers() {
        use tokio::io::AsyncWriteExt as _;
        for (greeting, expected) in [("SSH-2.0-x\r\n", true), ("HTTP/1.1 400\r\n", false)] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
                .await
                .expect("bound");
            let address = listener.local_addr().expect("an address");
            tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.expect("accepted");
                stream
                    .write_all(greeting.as_bytes())
                    .await
                    .expect("written");
            });
            let answer = answers_ssh(address, Duration::from_secs(5)).await;
            assert_eq!(answer, expected, "{greeting}");
        }
    }
}
