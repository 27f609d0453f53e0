//! The console ring, behind the `log` crate.

use core::cell::RefCell;
use core::fmt::{self, Write};
use core::time::Duration;

use log::{LevelFilter, Log, Metadata, Record};
use ringfence_core::{EvtchnPort, PAGE};
use ringfence_mem::RawPages;
use ringfence_ring::AttachError;
use ringfence_ring::bytes::{ByteWriter, Lane};

use crate::boot::Ring;
use crate::evtchn;
use crate::shared::SharedInfo;

/// How long a full ring is waited for. Then what is written is lost: a guest does not hang with who reads its console.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at a full ring.
const LOOK: Duration = Duration::from_millis(10);

struct Console {
    out: ByteWriter<RawPages>,
    port: EvtchnPort,
    shared: &'static SharedInfo,
}

struct Slot(RefCell<Option<Console>>);

// SAFETY: there is one processor and nothing that interrupts it, so nobody borrows while somebody else does.
unsafe impl Sync for Slot {}

static CONSOLE: Slot = Slot(RefCell::new(None));

struct Logger;

static LOGGER: Logger = Logger;

/// Opens it and makes it the place where `log` writes.
///
/// # Safety
/// The page is the console's ring, mapped for good, and nobody else's.
pub(crate) unsafe fn open(ring: Ring, shared: &'static SharedInfo) -> Result<(), AttachError> {
    // SAFETY: as promised.
    let pages = unsafe { RawPages::new(ring.page, PAGE) };
    let out = ByteWriter::attach(pages, Lane::CONSOLE_OUT)?;
    let port = ring.port;
    shared.unmask(port);
    CONSOLE.0.replace(Some(Console { out, port, shared }));
    // The second time it is set already, which is as well.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(LevelFilter::Info);
    Ok(())
}

/// Writes text to the console, with CR before LF.
pub fn write_text(text: fmt::Arguments<'_>) {
    if let Ok(mut slot) = CONSOLE.0.try_borrow_mut()
        && let Some(console) = slot.as_mut()
    {
        // It has no errors: what finds no room is lost.
        let _ = console.write_fmt(text);
    }
}

/// Waits until the console's backend has read everything, but not for ever.
pub(crate) fn drain() {
    if let Ok(mut slot) = CONSOLE.0.try_borrow_mut()
        && let Some(console) = slot.as_mut()
    {
        console.wait_until(Lane::CONSOLE_OUT.size());
    }
}

impl Console {
    /// Waits for so much room; `false` if it does not come.
    fn wait_until(&mut self, room: u32) -> bool {
        let end = self.shared.now() + PATIENCE;
        loop {
            match self.out.free() {
                Ok(free) if free >= room => return true,
                Ok(_) if self.shared.now() < end => {}
                _ => return false,
            }
            // A reader that makes room rings; its events mean nothing else to us.
            self.shared.clear(self.port);
            let _ = evtchn::send(self.port);
            if self.shared.wait([self.port], Some(LOOK)).is_err() {
                return false;
            }
        }
    }

    fn write_all(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.out.write(bytes) {
                Ok(0) if self.wait_until(1) => {}
                Ok(0) | Err(_) => return,
                Ok(written) => bytes = &bytes[written..],
            }
        }
    }
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for (nth, line) in text.split('\n').enumerate() {
            if nth > 0 {
                self.write_all(b"\r\n");
            }
            self.write_all(line.as_bytes());
        }
        // Rung once for each piece of text; that nobody hears it is no reason to stop.
        let _ = evtchn::send(self.port);
        Ok(())
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            write_text(format_args!("{}: {}\n", record.level(), record.args()));
        }
    }

    fn flush(&self) {
        drain();
    }
}
