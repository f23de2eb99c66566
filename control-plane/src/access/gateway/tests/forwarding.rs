//! Forwarded ports, sockets and agents, and the jump to an instance.

use std::{process::Stdio, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    process::Child,
    time::Instant,
};

use super::{
    World,
    world::{free_port, run, stderr, stdout},
};

/// Answers every connection with what it sent.
async fn echo_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = socket.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    port
}

async fn echoes(port: u16, bytes: usize) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut socket = loop {
        match TcpStream::connect(("127.0.0.1", port)).await {
            Ok(socket) => break socket,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let sent = vec![42; bytes];
    let (mut read, mut write) = socket.split();
    let mut received = Vec::new();
    let exchange = async {
        let send = async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        };
        tokio::join!(send, read.read_to_end(&mut received))
            .1
            .unwrap();
    };
    tokio::time::timeout(Duration::from_secs(60), exchange)
        .await
        .expect("everything comes back");
    assert!(
        received == sent,
        "{} of {bytes} bytes came back",
        received.len()
    );
}

fn forward(world: &World, flags: &[&str]) -> Child {
    world
        .client("ssh")
        .args(["-N", "-o", "ExitOnForwardFailure=yes"])
        .args(flags)
        .arg(format!("{}@127.0.0.1", world.name()))
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_port_leads_to_one_that_the_instance_reaches() {
    let world = World::new().await;
    let (target, local) = (echo_server().await, free_port().await);
    let _ssh = forward(&world, &["-L", &format!("{local}:127.0.0.1:{target}")]);
    echoes(local, 5).await;
    echoes(local, 8 << 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_of_the_instance_leads_to_one_that_the_client_reaches() {
    let world = World::new().await;
    let (target, remote) = (echo_server().await, free_port().await);
    let _ssh = forward(
        &world,
        &["-R", &format!("127.0.0.1:{remote}:127.0.0.1:{target}")],
    );
    echoes(remote, 5).await;
    echoes(remote, 8 << 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_the_instance_chooses_is_told() {
    let world = World::new().await;
    let target = echo_server().await;
    let mut ssh = world.ssh(&["-R", &format!("0:127.0.0.1:{target}"), "sleep 0.2"]);
    let output = run(&mut ssh).await;
    assert!(output.status.success());
    assert!(
        stderr(&output).contains("Allocated port"),
        "{}",
        stderr(&output)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forward_that_stalls_does_not_stop_the_others() {
    let world = World::new().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (target, local, stuck) = (echo_server().await, free_port().await, free_port().await);
    let _ssh = forward(
        &world,
        &[
            "-L",
            &format!("{local}:127.0.0.1:{target}"),
            "-L",
            &format!("{stuck}:127.0.0.1:{}", silent.local_addr().unwrap().port()),
        ],
    );
    echoes(local, 5).await;
    let mut stalled = TcpStream::connect(("127.0.0.1", stuck)).await.unwrap();
    tokio::spawn(async move {
        let chunk = vec![0; 1 << 20];
        while stalled.write_all(&chunk).await.is_ok() {}
    });
    // The other end never reads: what the kernels and the gateway hold fills up while the echo goes on.
    for _ in 0..5 {
        echoes(local, 1 << 20).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_is_forwarded() {
    let world = World::new().await;
    let (target, local) = (world.path("target.sock"), free_port().await);
    let listener = tokio::net::UnixListener::bind(&target).unwrap();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.write_all(b"from the socket").await.unwrap();
    });
    let _ssh = forward(&world, &["-L", &format!("{local}:{}", target.display())]);
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut socket = loop {
        match TcpStream::connect(("127.0.0.1", local)).await {
            Ok(socket) => break socket,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "from the socket");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_forwarded() {
    let world = World::new().await;
    let socket = world.path("agent.sock");
    let mut agent = tokio::process::Command::new("ssh-agent")
        .args(["-D", "-a"])
        .arg(&socket)
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let mut add = tokio::process::Command::new("ssh-add");
        let added = run(add.arg(world.path("id")).env("SSH_AUTH_SOCK", &socket)).await;
        if added.status.success() {
            break;
        }
        assert!(Instant::now() < deadline, "{}", stderr(&added));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut ssh = world.ssh(&["-A", "ssh-add -l"]);
    let output = run(ssh.env("SSH_AUTH_SOCK", &socket)).await;
    assert!(stdout(&output).contains("ED25519"), "{}", stderr(&output));
    agent.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jump_leads_to_the_instance_itself_which_shows_its_own_certificate() {
    let world = World::new().await;
    let id = world.leased.lease.to_string();
    let options = world
        .options()
        .iter()
        .map(|(option, value)| format!(" -o {option}={value}"))
        .collect::<String>();
    let proxy = format!("ssh -F none{options} -W %h:22 {}@127.0.0.1", world.name());
    let instance = world.leased.instance.to_string();
    for target in ["vision", "vision.0", &id, &instance] {
        let output = run(world
            .client("ssh")
            .args([
                "-o",
                "Port=22",
                "-o",
                &format!("ProxyCommand={proxy}"),
                "-v",
            ])
            .arg(format!("{}@{target}", world.user))
            .arg("echo in"))
        .await;
        assert_eq!(stdout(&output), "in\n", "{target}: {}", stderr(&output));
        assert!(
            stderr(&output).contains("Server host certificate"),
            "{}",
            stderr(&output)
        );
    }
}
