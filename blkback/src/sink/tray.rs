//! A disk whose medium can be changed while somebody uses it: a CD-ROM.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use core::cell::RefCell;

use ringfence_core::ids::SectorCount;

use super::{DiskIo, Done, Geometry, Io, IoOp};
use crate::error::IoError;

/// A medium, and how many requests it works on.
struct Medium {
    io: Box<dyn DiskIo>,
    open: usize,
}

impl Medium {
    fn reap(&mut self) -> Option<Done> {
        let done = self.io.reap()?;
        self.open = self.open.saturating_sub(1);
        Some(done)
    }
}

struct Drive {
    /// What the drive is like without a medium.
    empty: Geometry,
    medium: Option<Medium>,
    /// Those that were taken out while they worked.
    before: VecDeque<Medium>,
    /// What cannot be done, and was not given back yet.
    failed: VecDeque<Io>,
}

/// The hand that changes the medium.
#[derive(Clone)]
pub struct Tray {
    drive: Rc<RefCell<Drive>>,
}

impl Tray {
    /// Puts a medium into a drive: the hand, and the disk that its users see.
    pub fn new(io: Box<dyn DiskIo>) -> (Self, Box<dyn DiskIo>) {
        let empty = Geometry {
            sectors: SectorCount::new(0),
            ..io.geometry()
        };
        let drive = Rc::new(RefCell::new(Drive {
            empty,
            medium: Some(Medium { io, open: 0 }),
            before: VecDeque::new(),
            failed: VecDeque::new(),
        }));
        let tray = Self { drive };
        let disk = Box::new(tray.clone());
        (tray, disk)
    }

    /// Takes out what is in, and puts this in. What was submitted before is finished on the medium that it was submitted to;
    /// what is submitted to an empty drive fails. [`DiskIo::refresh`] says how large it is from now on.
    ///
    /// # Errors
    /// The medium back: its logical sectors have another size than the drive's users know.
    pub fn change(&self, medium: Option<Box<dyn DiskIo>>) -> Result<(), Box<dyn DiskIo>> {
        let mut drive = self.drive.borrow_mut();
        if let Some(io) = medium.as_ref()
            && io.geometry().logical != drive.empty.logical
        {
            return medium.map_or(Ok(()), Err);
        }
        let new = medium.map(|io| Medium { io, open: 0 });
        if let Some(old) = core::mem::replace(&mut drive.medium, new)
            && old.open > 0
        {
            drive.before.push_back(old);
        }
        Ok(())
    }
}

impl Drive {
    /// Whether the medium has what is asked for: users may not know yet that it is another.
    fn has(&self, io: &Io) -> bool {
        let Some(medium) = &self.medium else {
            return false;
        };
        let bytes = u64::try_from(io.buffer.len()).unwrap_or(u64::MAX);
        let (sector, count) = match io.op {
            IoOp::Read(sector) | IoOp::Write(sector) => {
                (sector, SectorCount::new(bytes.div_ceil(512)))
            }
            IoOp::Discard { sector, count, .. } => (sector, count),
            IoOp::Flush => return true,
        };
        medium.io.geometry().check(sector, count).is_ok()
    }
}

impl DiskIo for Tray {
    fn geometry(&self) -> Geometry {
        let drive = self.drive.borrow();
        let sectors = match &drive.medium {
            Some(medium) => medium.io.geometry().sectors,
            None => SectorCount::new(0),
        };
        Geometry {
            sectors,
            ..drive.empty
        }
    }

    fn refresh(&mut self) -> Geometry {
        if let Some(medium) = &mut self.drive.borrow_mut().medium {
            medium.io.refresh();
        }
        self.geometry()
    }

    fn submit(&mut self, io: Io) -> Result<(), Io> {
        let mut drive = self.drive.borrow_mut();
        if !drive.has(&io) {
            drive.failed.push_back(io);
            return Ok(());
        }
        let Some(medium) = &mut drive.medium else {
            return Err(io);
        };
        medium.io.submit(io)?;
        medium.open = medium.open.saturating_add(1);
        Ok(())
    }

    fn kick(&mut self) {
        let mut drive = self.drive.borrow_mut();
        let drive = &mut *drive;
        for medium in drive.before.iter_mut().chain(&mut drive.medium) {
            medium.io.kick();
        }
    }

    fn reap(&mut self) -> Option<Done> {
        let mut drive = self.drive.borrow_mut();
        let drive = &mut *drive;
        if let Some(io) = drive.failed.pop_front() {
            let result = Err(IoError::Range);
            return Some(Done { io, result });
        }
        let mut media = drive.before.iter_mut().chain(&mut drive.medium);
        let done = media.find_map(Medium::reap);
        drop(media);
        drive.before.retain(|medium| medium.open > 0);
        done
    }

    fn wake(&self) -> Option<i32> {
        let drive = self.drive.borrow();
        let mut media = drive.medium.iter().chain(&drive.before);
        media.find_map(|medium| medium.io.wake())
    }
}

#[cfg(test)]
mod tests {
    use ringfence_core::ids::Sector;

    use super::*;
    use crate::buffer::Buffer;
    use crate::sink::{Memory, Tag};

    fn medium(sectors: u64, byte: u8) -> Box<dyn DiskIo> {
        let mut io = Memory::new(SectorCount::new(sectors)).unwrap();
        for sector in 0..sectors {
            io.submit(request(IoOp::Write(Sector::new(sector)), byte))
                .unwrap();
            assert_eq!(io.reap().unwrap().result, Ok(()));
        }
        Box::new(io)
    }

    fn request(op: IoOp, byte: u8) -> Io {
        let mut buffer = Buffer::with_pages(1);
        buffer.set_len(512);
        buffer.bytes_mut().fill(byte);
        Io {
            tag: Tag::new(5),
            op,
            buffer,
        }
    }

    /// What the first byte of this sector is, or why nobody knows.
    fn read(disk: &mut dyn DiskIo, sector: u64) -> Result<u8, IoError> {
        let io = request(IoOp::Read(Sector::new(sector)), 0xEE);
        disk.submit(io).unwrap();
        disk.kick();
        let done = disk.reap().unwrap();
        assert!(disk.reap().is_none());
        done.result.map(|()| done.io.buffer.bytes()[0])
    }

    #[test]
    fn each_request_is_done_on_the_medium_that_was_in() {
        let (tray, mut disk) = Tray::new(medium(8, 1));
        assert_eq!(read(&mut *disk, 7), Ok(1));
        // Submitted, and not reaped before the medium goes.
        disk.submit(request(IoOp::Read(Sector::new(3)), 0)).unwrap();
        assert!(tray.change(Some(medium(4, 2))).is_ok());
        let done = disk.reap().unwrap();
        assert_eq!((done.result, done.io.buffer.bytes()[0]), (Ok(()), 1));
        assert!(disk.reap().is_none());
        assert_eq!(disk.refresh().sectors, SectorCount::new(4));
        assert_eq!(read(&mut *disk, 3), Ok(2));
        assert_eq!(read(&mut *disk, 4), Err(IoError::Range), "no longer there");
    }

    #[test]
    fn an_empty_drive_has_no_sectors() {
        let (tray, mut disk) = Tray::new(medium(8, 1));
        assert!(tray.change(None).is_ok());
        assert_eq!(disk.refresh().sectors, SectorCount::new(0));
        assert_eq!(read(&mut *disk, 0), Err(IoError::Range));
        assert!(tray.change(Some(medium(2, 3))).is_ok());
        assert_eq!(disk.refresh().sectors, SectorCount::new(2));
        assert_eq!(read(&mut *disk, 1), Ok(3));
    }
}
