//! The agent's end of the NVML worker: starts it, asks it, and abandons it when it does not answer.
//!
//! Invariant: no caller waits longer than the time-outs of [`Timing`], whatever the driver does. A worker that is stuck in the kernel
//! cannot be ended, so it is killed and not waited for; while [`MOST_STUCK`] such linger, no new one is started.

use std::{
    ffi::OsString,
    io,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::{Mutex, mpsc},
    time::{Instant, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::wire::{self, Answer, Hello, Request, Unavailable, XidEvent};

/// Workers that were killed and have not ended.
const MOST_STUCK: usize = 4;

/// How the worker is started.
#[derive(Debug, Clone)]
pub struct Program {
    /// The agent's own binary.
    pub binary: PathBuf,
    /// The NVML library. `None`: the one the system's linker finds.
    pub nvml_lib: Option<PathBuf>,
    /// Variables of its environment beyond the agent's own.
    pub environment: Vec<(OsString, OsString)>,
}

impl Program {
    /// This process's own binary, even when its file was replaced since.
    #[must_use]
    pub fn own(nvml_lib: Option<PathBuf>) -> Self {
        Self {
            binary: "/proc/self/exe".into(),
            nvml_lib,
            environment: Vec::new(),
        }
    }
}

/// How long things may take.
#[derive(Debug, Clone)]
pub struct Timing {
    /// From the worker's start until NVML is initialised: without persistence mode the driver wakes each GPU, for seconds each.
    pub start: Duration,
    /// One request. A sample of eight GPUs takes milliseconds.
    pub call: Duration,
    /// After the first failure; doubled with every further one.
    pub shortest_pause: Duration,
    /// The pause grows up to this.
    pub longest_pause: Duration,
    /// Between rounds of the health checks.
    pub health: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            start: Duration::from_secs(60),
            call: Duration::from_secs(5),
            shortest_pause: Duration::from_secs(1),
            longest_pause: Duration::from_mins(1),
            health: Duration::from_secs(15),
        }
    }
}

/// Why NVML did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NvmlError {
    /// A call did not return in time.
    #[error("an NVML call did not return within {0:?}: the driver or a GPU hangs")]
    Timeout(Duration),
    /// There is no NVML to use.
    #[error("{0}")]
    Unavailable(String),
    /// The worker ended in the midst of a call.
    #[error("the NVML process ended ({0}); it is started again")]
    Died(String),
}

/// NVML, behind a process that may be lost.
#[derive(Debug)]
pub(super) struct Nvml {
    program: Program,
    timing: Timing,
    /// Held while a request is under way: NVML is asked one thing at a time.
    slot: Mutex<Slot>,
    stuck: Arc<AtomicUsize>,
    /// In a row.
    failures: AtomicU32,
    xids: mpsc::Sender<XidEvent>,
}

#[derive(Debug, Default)]
struct Slot {
    /// Taken out while it is asked, so that a caller who goes away leaves no answer behind for the next.
    worker: Option<Worker>,
    /// The last failure, answered again until it is time for another attempt.
    failed: Option<(NvmlError, Instant)>,
}

/// A worker that said hello.
#[derive(Debug)]
struct Worker {
    input: ChildStdin,
    answers: mpsc::Receiver<Answer>,
    hello: Arc<Hello>,
    /// Ends the process.
    _end: DropGuard,
}

impl Nvml {
    pub(super) fn new(program: Program, timing: Timing, xids: mpsc::Sender<XidEvent>) -> Self {
        Self {
            program,
            timing,
            slot: Mutex::default(),
            stuck: Arc::default(),
            failures: AtomicU32::new(0),
            xids,
        }
    }

    /// How often NVML failed in a row.
    pub(super) fn failures(&self) -> u32 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Ends the worker, so that the next question starts NVML anew.
    pub(super) async fn restart(&self) {
        self.slot.lock().await.worker = None;
    }

    /// Asks the worker, which is started when there is none. The answer comes with the hello of the worker that gave it.
    pub(super) async fn ask(&self, request: Request) -> Result<(Arc<Hello>, Answer), NvmlError> {
        let mut slot = self.slot.lock().await;
        if let Some((error, until)) = &slot.failed
            && Instant::now() < *until
        {
            return Err(error.clone());
        }
        let asked = match slot.worker.take() {
            Some(worker) => self.ask_of(worker, request).await,
            None => match self.start().await {
                Ok(worker) => self.ask_of(worker, request).await,
                Err(error) => Err(error),
            },
        };
        match asked {
            Ok((worker, answer)) => {
                let hello = Arc::clone(&worker.hello);
                self.failures.store(0, Ordering::Relaxed);
                *slot = Slot {
                    worker: Some(worker),
                    failed: None,
                };
                Ok((hello, answer))
            }
            Err(error) => {
                let failures = self.failures.fetch_add(1, Ordering::Relaxed);
                let pause = self.timing.shortest_pause * (1 << failures.min(16));
                let until = Instant::now() + pause.min(self.timing.longest_pause);
                slot.failed = Some((error.clone(), until));
                Err(error)
            }
        }
    }

    async fn ask_of(
        &self,
        mut worker: Worker,
        request: Request,
    ) -> Result<(Worker, Answer), NvmlError> {
        let limit = self.timing.call;
        match timeout(limit, worker.ask(request)).await {
            Ok(answer) => Ok((worker, answer?)),
            Err(_) => Err(NvmlError::Timeout(limit)),
        }
    }

    async fn start(&self) -> Result<Worker, NvmlError> {
        let stuck = self.stuck.load(Ordering::Acquire);
        if stuck >= MOST_STUCK {
            return Err(NvmlError::Timeout(self.timing.call));
        }
        let mut command = Command::new(&self.program.binary);
        command.arg0("freehold-agent").arg("nvml-worker");
        if let Some(library) = &self.program.nvml_lib {
            command.arg("--nvml-lib").arg(library);
        }
        let environment = self.program.environment.iter().cloned();
        let child = command
            .envs(environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let died = |error: io::Error| NvmlError::Died(format!("it cannot be started: {error}"));
        let mut child = child.map_err(died)?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(NvmlError::Died("it has no pipes".to_owned()));
        };
        let (answers_in, mut answers) = mpsc::channel(1);
        tokio::spawn(read_answers(output, answers_in, self.xids.clone()));
        let end = CancellationToken::new();
        tokio::spawn(watch(child, end.clone(), Arc::clone(&self.stuck)));
        let end = end.drop_guard();
        match timeout(self.timing.start, answers.recv()).await {
            Ok(Some(Answer::Hello(hello))) => Ok(Worker {
                input,
                answers,
                hello: Arc::new(hello),
                _end: end,
            }),
            Ok(Some(Answer::Unavailable(why))) => Err(NvmlError::from(why)),
            Ok(_) => Err(NvmlError::Died("it ended while it started".to_owned())),
            Err(_) => Err(NvmlError::Timeout(self.timing.start)),
        }
    }
}

impl From<Unavailable> for NvmlError {
    fn from(why: Unavailable) -> Self {
        Self::Unavailable(why.to_string())
    }
}

impl Worker {
    async fn ask(&mut self, request: Request) -> Result<Answer, NvmlError> {
        let sent = self.input.write_all(&[request.to_byte()]).await;
        sent.map_err(|error| NvmlError::Died(error.to_string()))?;
        let answer = self.answers.recv().await;
        answer.ok_or_else(|| NvmlError::Died("it closed its output".to_owned()))
    }
}

/// Hands answers to whoever waits for one, and Xids to the monitor, until the worker closes its output.
async fn read_answers(
    output: ChildStdout,
    answers: mpsc::Sender<Answer>,
    xids: mpsc::Sender<XidEvent>,
) {
    let mut output = BufReader::new(output);
    let mut body = Vec::new();
    loop {
        match read_answer(&mut output, &mut body).await {
            Ok(Answer::Xid(event)) => {
                // A full channel is a storm of the same Xid, of which the monitor has enough.
                let _ = xids.try_send(event);
            }
            Ok(answer) => {
                if answers.send(answer).await.is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return,
            Err(error) => {
                tracing::error!(%error, "what the NVML process wrote cannot be read");
                return;
            }
        }
    }
}

async fn read_answer(
    output: &mut BufReader<ChildStdout>,
    body: &mut Vec<u8>,
) -> io::Result<Answer> {
    let mut head = [0; wire::HEAD];
    output.read_exact(&mut head).await?;
    body.resize(wire::body_length(head)?, 0);
    output.read_exact(body).await?;
    wire::decode(head, body)
}

/// Waits for the worker's end. When nobody needs it any more it is killed, and reaped whenever the kernel lets go of it.
async fn watch(mut child: Child, end: CancellationToken, stuck: Arc<AtomicUsize>) {
    tokio::select! {
        status = child.wait() => {
            if let Ok(status) = status {
                tracing::debug!(%status, "the NVML process ended");
            }
        }
        () = end.cancelled() => {
            stuck.fetch_add(1, Ordering::AcqRel);
            let _ = child.start_kill();
            let _ = child.wait().await;
            stuck.fetch_sub(1, Ordering::AcqRel);
        }
    }
}
