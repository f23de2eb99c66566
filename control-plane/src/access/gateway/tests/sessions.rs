//! Sessions: commands, terminals, copies.

use std::{process::Stdio, time::Duration};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    super::{
        probe::probe,
        upstream::{Login, ProbeError},
    },
    World,
    world::{run, run_with, set_ended, stderr, stdout},
};

/// A client that could send nothing for so long is held up.
const QUIET: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_command_gets_its_input_and_gives_its_outputs_and_exit_status() {
    let world = World::new().await;
    let mut ssh = world.ssh(&["cat; echo error >&2; exit 7"]);
    let output = run_with(&mut ssh, b"input".to_vec()).await;
    assert_eq!(stdout(&output), "input", "{}", stderr(&output));
    assert_eq!(stderr(&output), "error\n");
    assert_eq!(output.status.code(), Some(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_killed_says_by_which_signal() {
    let world = World::new().await;
    let output = run(&mut world.ssh(&["-v", "kill -KILL $$"])).await;
    assert!(
        stderr(&output).contains("exit-signal"),
        "{}",
        stderr(&output)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_the_clients_type_and_modes() {
    let world = World::new().await;
    let mut ssh = world.ssh(&["-tt", "tty; echo $TERM; stty -a | grep -o erase"]);
    let output = run(ssh.env("TERM", "xterm-test")).await;
    let text = stdout(&output);
    assert!(text.contains("/dev/pts/"), "{text} {}", stderr(&output));
    assert!(text.contains("xterm-test"), "{text}");
    assert!(text.contains("erase"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_is_passed_on_as_the_instance_allows() {
    let world = World::new().await;
    let mut ssh = world.ssh(&["-o", "SendEnv=FREEHOLD_TEST", "echo $FREEHOLD_TEST"]);
    let output = run(ssh.env("FREEHOLD_TEST", "passed on")).await;
    assert_eq!(stdout(&output), "passed on\n", "{}", stderr(&output));
}

fn noise(megabytes: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut bytes = Vec::with_capacity(megabytes << 20);
    while bytes.len() < megabytes << 20 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_go_both_ways_at_once_do_not_wait_for_each_other() {
    let world = World::new().await;
    let input = noise(24);
    let output = run_with(&mut world.ssh(&["cat"]), input.clone()).await;
    assert!(output.stdout == input, "{}", stderr(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_reads_late_gets_every_byte() {
    let world = World::new().await;
    let mut ssh = world.ssh(&["sleep 2; sha256sum | cut -c1-64"]);
    let input = noise(16);
    let expected = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&input));
    let output = run_with(&mut ssh, input).await;
    assert_eq!(stdout(&output).trim(), expected, "{}", stderr(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_reads_nothing_holds_its_client_up_and_can_still_be_ended() {
    let world = World::new().await;
    let mut ssh = world.ssh(&["echo in; sleep 600"]);
    let mut child = ssh
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    stdout.read_exact(&mut [0; 3]).await.unwrap();
    let chunk = vec![0; 64 * 1024];
    let mut sent = 0;
    // Pipes and sockets hold some, the instance's sshd two megabytes, the gateway a window and a half.
    while let Ok(Ok(())) = tokio::time::timeout(QUIET, stdin.write_all(&chunk)).await {
        sent += chunk.len();
        assert!(sent < 32 << 20, "nothing holds the client up");
    }
    set_ended(&world).await;
    let ended = tokio::time::timeout(Duration::from_secs(20), child.wait()).await;
    assert_eq!(
        ended.expect("the session is cut").unwrap().code(),
        Some(255)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn scp_sftp_and_rsync_copy_both_ways() {
    let world = World::new().await;
    let content = noise(8);
    std::fs::write(world.path("local"), &content).unwrap();
    let remote = |name: &str| {
        let path = world.path(name).display().to_string();
        format!("{}@127.0.0.1:{path}", world.name())
    };
    let local = world.path("local");
    let same = |name: &str| {
        assert!(
            std::fs::read(world.path(name)).unwrap() == content,
            "{name}"
        );
    };
    for (flag, name) in [("-s", "by-sftp"), ("-O", "by-scp")] {
        let output = run(world.client("scp").arg(flag).arg(&local).arg(remote(name))).await;
        assert!(output.status.success(), "{}", stderr(&output));
        same(name);
        let back = format!("{name}-back");
        let output = run(world
            .client("scp")
            .arg(flag)
            .arg(remote(name))
            .arg(world.path(&back)))
        .await;
        assert!(output.status.success(), "{}", stderr(&output));
        same(&back);
    }
    let shell = world
        .options()
        .iter()
        .map(|(option, value)| format!(" -o {option}={value}"))
        .collect::<String>();
    let mut rsync = tokio::process::Command::new("rsync");
    rsync.args(["-a", "-e", &format!("ssh -F none{shell}")]);
    let output = match rsync.arg(&local).arg(remote("by-rsync")).output().await {
        Ok(output) => output,
        Err(error) => return eprintln!("skipped: rsync is not installed: {error}"),
    };
    assert!(output.status.success(), "{}", stderr(&output));
    same("by-rsync");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_probe_proves_that_a_new_session_works() {
    let world = World::new().await;
    let login = Login {
        place: world.place(),
        lease: world.leased.lease,
        login: &world.user,
        holder: "test",
        channel_messages: 8,
    };
    probe(&world.dialer, &login).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_without_its_host_certificate_is_not_trusted() {
    let world = World::with_sshd(|_, config| {
        *config = config
            .lines()
            .filter(|line| !line.starts_with("HostCertificate"))
            .collect::<Vec<_>>()
            .join("\n");
    })
    .await;
    let login = Login {
        place: world.place(),
        lease: world.leased.lease,
        login: &world.user,
        holder: "test",
        channel_messages: 8,
    };
    let error = probe(&world.dialer, &login).await.unwrap_err();
    assert!(matches!(error, ProbeError::Refused(_)), "{error}");
    let output = run(&mut world.ssh(&["true"])).await;
    assert_eq!(output.status.code(), Some(255));
    assert!(
        stderr(&output)
            .contains("freehold: the instance's sshd does not show the host certificate"),
        "{}",
        stderr(&output)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_trusts_another_authority_is_the_tenants_doing() {
    let world = World::with_sshd(|_, config| {
        *config = config
            .lines()
            .filter(|line| !line.starts_with("TrustedUserCAKeys"))
            .collect::<Vec<_>>()
            .join("\n");
    })
    .await;
    let output = run(&mut world.ssh(&["true"])).await;
    assert_eq!(output.status.code(), Some(255));
    assert!(
        stderr(&output).contains("does not let"),
        "{}",
        stderr(&output)
    );
}
