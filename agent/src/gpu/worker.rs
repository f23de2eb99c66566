//! The child process in which NVML runs: it answers requests until its parent is gone.
//!
//! A call may hang for ever, so the end of the parent is noticed by a thread that makes no such call.

use std::{
    io::{self, Read as _},
    os::fd::AsFd as _,
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
    wire::{Answer, Request, XidEvent, encode},
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
        Err(unavailable) => return output.write(&Answer::Unavailable(unavailable)),
    };
    output.write(&Answer::Hello(library.hello.clone()))?;
    let nvml = library.nvml;
    let uuids: Vec<String> = library.hello.gpus.iter().map(|g| g.uuid.clone()).collect();
    let events = Arc::clone(&output);
    spawn(move || tell_xids(nvml, &uuids, &events))?;
    let mut input = io::stdin().lock();
    let mut byte = [0];
    while input.read(&mut byte)? > 0 {
        let answer = match Request::from_byte(byte[0]) {
            Some(Request::Sample) => Answer::Sample(library.sample()),
            Some(Request::Health) => Answer::Health(library.health()),
            Some(Request::Restore) => Answer::Restored(library.restore()),
            None => return Err(io::ErrorKind::InvalidData.into()),
        };
        output.write(&answer)?;
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

/// Standard output, a whole frame at a time.
#[derive(Debug, Default)]
struct Output(Mutex<Vec<u8>>);

impl Output {
    fn write(&self, answer: &Answer) -> io::Result<()> {
        let mut frame = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        encode(answer, &mut frame)?;
        let stdout = io::stdout();
        let mut left = frame.as_slice();
        while !left.is_empty() {
            // Not through the standard library's buffer, which looks for line ends.
            let written = rustix::io::write(stdout.as_fd(), left)?;
            left = left.get(written..).unwrap_or_default();
        }
        Ok(())
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
                    let told = output.write(&Answer::Xid(XidEvent { uuid, xid }));
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
