//! Images in QEMU's qcow2, with the images below them.
//!
//! `imago` reads and writes them, on threads, with files that were opened for it: what an image's header names is never opened.
//! Before a write is answered the tables that make it visible are with the kernel, so that an answered write survives this
//! process. At every point nothing that is in use counts as free, but for tables, which are [counted](counts) when an image is opened.

mod counts;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::string::{String, ToString};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::vec::Vec;

use imago::file::File as Storage;
use imago::qcow2::Qcow2 as Driver;
use imago::raw::Raw;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder as _, ShallowMapping};
use ringfence_core::PAGE;
use ringfence_core::ids::{Sector, SectorCount};
use ringfence_core::weakened;
use rustix::io::Errno;
use thiserror::Error;

use super::raw::FlushLatch;
use super::worker::{Blocking, Worker};
use super::{Discard, DiskIo, Done, Geometry, Io, IoOp};
use crate::buffer::Buffer;
use crate::error::IoError;

/// An image below another, opened for reading.
#[derive(Debug)]
pub enum Below {
    /// The disk's own bytes; the last of all.
    Raw(OwnedFd),
    /// Another of this format.
    Qcow2(OwnedFd),
}

/// Why an image cannot be served.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Qcow2Error {
    /// It is something else, or damaged.
    #[error("qcow2: {0}")]
    Open(#[from] io::Error),
    /// The header names an image below, and the configuration does not.
    #[error(
        "the image's header names the backing file {name:?}, but no backing= is configured for it"
    )]
    Unnamed {
        /// As the header has it.
        name: String,
    },
    /// The other way round: reading through to another image would show what this one never had.
    #[error("backing= is configured, but the image's header names no backing file")]
    Unexpected,
    /// Its data are in another file.
    #[error("images with an external data file are not served")]
    External,
    /// A raw image that is not the last.
    #[error("backing: a raw image has no image below it")]
    BelowRaw,
    /// It has no sector.
    #[error("the image's size of {bytes} bytes is less than a sector")]
    Size {
        /// The disk's size.
        bytes: u64,
    },
    /// No thread, or no descriptor.
    #[error("cannot start a thread: {0}")]
    Thread(Errno),
}

/// A qcow2 image as a disk.
pub struct Qcow2 {
    geometry: Geometry,
    worker: Worker,
}

/// The header's first fields, which say what the image can do and where its tables are.
struct Head {
    version: u32,
    cluster_bits: u32,
    l1_entries: u32,
    l1_offset: u64,
    refcount_offset: u64,
    refcount_clusters: u32,
    refcount_order: u32,
}

impl Head {
    fn read(image: &OwnedFd) -> io::Result<Self> {
        // A page on a page: the image may be open past the page cache.
        let mut page = Buffer::with_pages(1);
        page.set_len(PAGE);
        let read = rustix::io::pread(image, page.bytes_mut(), 0)?;
        page.set_len(read);
        let be = |at: usize| {
            let field = page.bytes().get(at..).and_then(|rest| rest.first_chunk());
            field.map_or(0, |field| u32::from_be_bytes(*field))
        };
        let be64 = |at: usize| u64::from(be(at)) << 32 | u64::from(be(at.saturating_add(4)));
        if read < 72 || be(0) != 0x5146_49fb {
            return Err(io::Error::other("no magic number of the format"));
        }
        let version = be(4);
        Ok(Self {
            version,
            cluster_bits: be(20),
            l1_entries: be(36),
            l1_offset: be64(40),
            refcount_offset: be64(48),
            refcount_clusters: be(56),
            refcount_order: if version < 3 { 4 } else { be(96) },
        })
    }
}

impl Qcow2 {
    /// The disk in `image`, over the images in `below`, from the one right below it to the last.
    ///
    /// # Errors
    /// [`Qcow2Error`], in words for the `error` node.
    pub fn new(image: OwnedFd, below: Vec<Below>, read_only: bool) -> Result<Self, Qcow2Error> {
        let head = Head::read(&image)?;
        if !read_only && !weakened!("qcow2_counts") {
            let mended = counts::mend(&image, &head)?;
            if mended > 0 {
                tracing::info!(mended, "qcow2: tables counted as free");
            }
        }
        let mut chain = None;
        for one in below.into_iter().rev() {
            chain = Some(match one {
                Below::Raw(_) if chain.is_some() => return Err(Qcow2Error::BelowRaw),
                Below::Raw(file) => {
                    let storage = Storage::try_from(File::from(file))?;
                    FormatAccess::new(Raw::open_image(storage, false)?)
                }
                Below::Qcow2(file) => FormatAccess::new(open(file, chain, false)?),
            });
        }
        let disk = FormatAccess::new(open(image, chain, !read_only)?);
        let bytes = disk.size();
        let sectors = SectorCount::new(bytes.checked_div(Sector::BYTES).unwrap_or(0));
        if sectors.get() == 0 {
            return Err(Qcow2Error::Size { bytes });
        }
        // Of older images nothing can be given back: a hole would show what is below.
        let can_discard = !read_only && head.version >= 3;
        let cluster = 1u32.checked_shl(head.cluster_bits).unwrap_or(0).max(512);
        let geometry = Geometry {
            read_only,
            discard: can_discard.then(|| Discard::new(cluster)),
            ..Geometry::new(sectors)
        };
        let worker = Worker::new(Image {
            disk: RwLock::new(disk),
            latch: Mutex::default(),
            unsettled: AtomicBool::new(false),
        });
        Ok(Self {
            geometry,
            worker: worker.map_err(Qcow2Error::Thread)?,
        })
    }
}

type Chained = Driver<Storage, FormatAccess<Storage>>;

fn open(
    file: OwnedFd,
    below: Option<FormatAccess<Storage>>,
    write: bool,
) -> Result<Chained, Qcow2Error> {
    let configured = below.is_some();
    let storage = Storage::try_from(File::from(file))?;
    let image = Chained::builder(storage)
        .write(write)
        .backing(below)
        .data_file(None)
        .open(DenyImplicitOpenGate::default())?;
    if image.requires_external_data_file() {
        return Err(Qcow2Error::External);
    }
    match image.implicit_backing_file() {
        Some(name) if !configured => Err(Qcow2Error::Unnamed {
            name: name.to_string(),
        }),
        None if configured => Err(Qcow2Error::Unexpected),
        _ => Ok(image),
    }
}

/// What the threads have.
///
/// The library writes the count of a cluster before the table that refers to it, but only if nothing is allocated between the two: so
/// whoever changes tables is alone with it, and so is whoever writes them to the kernel. In one table it would be alone anyway.
struct Image {
    disk: RwLock<FormatAccess<Storage>>,
    latch: Mutex<FlushLatch>,
    /// Whether tables were changed that may not be with the kernel yet.
    unsettled: AtomicBool,
}

impl Image {
    fn shared(&self) -> RwLockReadGuard<'_, FormatAccess<Storage>> {
        self.disk.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn alone(&self) -> RwLockWriteGuard<'_, FormatAccess<Storage>> {
        self.disk.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether tables are to be with the kernel before this is answered, too.
    fn write(&self, bytes: &[u8], offset: u64) -> (Result<(), IoError>, bool) {
        let write = |disk: &FormatAccess<Storage>| failed("qcow2 write", disk.write(bytes, offset));
        {
            let disk = self.shared();
            if is_in_place(&disk, bytes.len(), offset) {
                // Tables that say where since a moment ago may not be there yet.
                return (write(&disk), self.unsettled.load(Ordering::SeqCst));
            }
        }
        let disk = self.alone();
        self.unsettled.store(true, Ordering::SeqCst);
        (write(&disk), true)
    }

    fn flush(&self) -> Result<(), IoError> {
        let flushed = self.write_tables().and_then(|()| self.shared().sync());
        let mut latch = self.latch.lock().unwrap_or_else(PoisonError::into_inner);
        latch.pass(failed("qcow2 flush", flushed))
    }

    fn write_tables(&self) -> io::Result<()> {
        let disk = self.alone();
        disk.flush()?;
        // Nobody changes them meanwhile.
        self.unsettled.store(false, Ordering::SeqCst);
        Ok(())
    }

    fn discard(&self, offset: u64, bytes: u64) -> Result<(), IoError> {
        let mut disk = self.alone();
        self.unsettled.store(true, Ordering::SeqCst);
        match disk.discard_to_any(offset, bytes) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Err(IoError::Unsupported),
            result => failed("qcow2 discard", result),
        }
    }
}

/// Whether a write changes no table.
fn is_in_place(disk: &FormatAccess<Storage>, len: usize, offset: u64) -> bool {
    let len = u64::try_from(len).unwrap_or(u64::MAX);
    match disk.get_shallow_mapping(offset, len) {
        Ok((ShallowMapping::Raw { writable: true, .. }, mapped)) => mapped >= len,
        _ => false,
    }
}

fn failed(op: &'static str, result: io::Result<()>) -> Result<(), IoError> {
    result.map_err(|error| {
        tracing::debug!(%error, op);
        let errno = error.raw_os_error();
        IoError::System {
            op,
            errno: errno.unwrap_or(Errno::IO.raw_os_error()),
        }
    })
}

impl Blocking for Image {
    const NAME: &'static str = "qcow2";

    fn changes(op: IoOp) -> bool {
        matches!(op, IoOp::Write(_) | IoOp::Discard { .. })
    }

    fn serve(&self, io: &mut Io) -> (Result<(), IoError>, bool) {
        let offset = |sector: Sector| sector.byte_offset().ok_or(IoError::Range);
        let ended = match io.op {
            IoOp::Read(sector) => offset(sector).and_then(|offset| {
                let bytes = io.buffer.bytes_mut();
                failed("qcow2 read", self.shared().read(bytes, offset))
            }),
            IoOp::Write(sector) => match offset(sector) {
                Ok(offset) => return self.write(io.buffer.bytes(), offset),
                Err(error) => Err(error),
            },
            IoOp::Discard { sector, count, .. } => match (offset(sector), count.bytes()) {
                (Ok(offset), Some(bytes)) => return (self.discard(offset, bytes), true),
                _ => Err(IoError::Range),
            },
            IoOp::Flush => self.flush(),
        };
        (ended, false)
    }

    /// The tables go to the kernel. If that fails nobody knows of what they tell, so all that comes is settled from then on.
    fn settle(&self) -> Result<(), IoError> {
        failed("qcow2 tables", self.write_tables())
    }
}

impl DiskIo for Qcow2 {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn submit(&mut self, io: Io) -> Result<(), Io> {
        self.worker.submit(io)
    }

    fn kick(&mut self) {
        self.worker.kick();
    }

    fn reap(&mut self) -> Option<Done> {
        self.worker.reap()
    }

    fn wake(&self) -> Option<i32> {
        Some(self.worker.wake())
    }
}
