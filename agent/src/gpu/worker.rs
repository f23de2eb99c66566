//! The child process in which NVML runs: it answers requests until its parent is gone.
//!
//! A call may hang for ever, so the end of the parent is noticed by a thread that makes no such call.

use std::{
    io::{self, BufRead as _, Write as _},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use nvml_wrapper::{
    Device, EventSet, Nvml, bitmasks::event::EventTypes, enums::event::XidError, error::NvmlError,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Signal, getpid, kill_process},
};

use super::{
    nvml::Library,
    wire::{Line, Request, XidEvent},
};

/// How long one wait for events lasts. NVML's advice is not to wait for ever.
const EVENT_WAIT_MS: u32 = 5000;

/// Between attempts to wait for events anew, after a GPU was lost.
const EVENT_PAUSE: Duration = Duration::from_secs(30);

/// Threads of the worker hardly use their stacks.
const STACK_BYTES: usize = 128 * 1024;

/// Serves the parent on standard input and output.
///
/// # Errors
/// When the parent is gone.
pub fn run(library: Option<&Path>) -> io::Result<()> {
    spawn(end_with_parent)?;
    let output = Arc::new(Output::default());
    let mut library = match Library::open(library) {
        Ok(library) => library,
        Err(unavailable) => return output.write(&Line::Unavailable(unavailable)),
    };
    output.write(&Line::Hello(library.hello.clone()))?;
    let nvml = library.nvml;
    let uuids: Vec<String> = library.hello.gpus.iter().map(|g| g.uuid.clone()).collect();
    let events = Arc::clone(&output);
    spawn(move || tell_xids(nvml, &uuids, &events))?;
    let mut input = io::stdin().lock();
    let mut line = String::new();
    while input.read_line(&mut line)? > 0 {
        let answer = match serde_json::from_str(&line)? {
            Request::Sample => Line::Sample(library.sample()),
            Request::Health => Line::Health(library.health()),
            Request::Restore => Line::Restored(library.restore()),
        };
        output.write(&answer)?;
        line.clear();
    }
    Ok(())
}

fn spawn(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let builder = thread::Builder::new().stack_size(STACK_BYTES);
    builder.spawn(work).map(|_| ())
}

/// Ends the process when nobody holds the other end of standard input, whatever its other threads are stuck in.
fn end_with_parent() {
    let input = io::stdin();
    loop {
        let mut fds = [PollFd::new(&input, PollFlags::empty())];
        if poll(&mut fds, None).is_ok() && !fds[0].revents().is_empty() {
            let _ = kill_process(getpid(), Signal::KILL);
        }
    }
}

/// Standard output, a whole line at a time.
#[derive(Debug, Default)]
struct Output(Mutex<Vec<u8>>);

impl Output {
    fn write(&self, line: &Line) -> io::Result<()> {
        let mut buffer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        buffer.clear();
        serde_json::to_writer(&mut *buffer, line)?;
        buffer.push(b'\n');
        let mut output = io::stdout().lock();
        output.write_all(&buffer)?;
        output.flush()
    }
}

/// Tells of Xids as NVML's event set delivers them, until the parent is gone.
fn tell_xids(nvml: &'static Nvml, uuids: &[String], output: &Output) {
    loop {
        let Some(set) = register(nvml, uuids) else {
            // No GPU that works has events: the kernel log is all there is.
            thread::sleep(EVENT_PAUSE);
            continue;
        };
        loop {
            match set.wait(EVENT_WAIT_MS) {
                Ok(event) => {
                    let (Some(XidError::Value(xid)), Ok(uuid)) =
                        (event.event_data, event.device.uuid())
                    else {
                        continue;
                    };
                    let xid = u32::try_from(xid).unwrap_or(u32::MAX);
                    let told = output.write(&Line::Xid(XidEvent { uuid, xid }));
                    if told.is_err() {
                        return;
                    }
                }
                Err(NvmlError::Timeout) => {}
                Err(_) => break,
            }
        }
        drop(set);
        thread::sleep(EVENT_PAUSE);
    }
}

/// A set with every GPU that takes one. A GPU that refuses ends the set, so it is made anew without that GPU.
fn register(nvml: &'static Nvml, uuids: &[String]) -> Option<EventSet<'static>> {
    let mut able = Vec::new();
    for uuid in uuids {
        let gpu = nvml.device_by_uuid(uuid.as_str());
        let events = gpu.and_then(|gpu| Ok((gpu.supported_event_types()?, gpu)));
        if let Ok((events, gpu)) = events
            && events.contains(EventTypes::CRITICAL_XID_ERROR)
        {
            able.push(gpu);
        }
    }
    while !able.is_empty() {
        match register_all(nvml, &able) {
            Ok(set) => return set,
            Err(at) => {
                able.remove(at);
            }
        }
    }
    None
}

/// `Err`: the position of the GPU that refused.
fn register_all(
    nvml: &'static Nvml,
    gpus: &[Device<'static>],
) -> Result<Option<EventSet<'static>>, usize> {
    let Ok(mut set) = nvml.create_event_set() else {
        return Ok(None);
    };
    for (at, gpu) in gpus.iter().enumerate() {
        set = gpu
            .register_events(EventTypes::CRITICAL_XID_ERROR, set)
            .map_err(|_| at)?;
    }
    Ok(Some(set))
}
