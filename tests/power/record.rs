//! What a disk was told, in order: writes with their content, flushes, and what a test noted meanwhile.

use std::fs::File;
use std::io;
use std::mem;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Something a test notes between writes and flushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// The change with this number begins at the source.
    Begun(usize),
    /// All changes up to this one were said to be durable.
    Durable(usize),
}

/// One thing that happened to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record {
    /// Bytes were written; they lie in the log's file.
    Write { offset: u64, length: u64, at: u64 },
    /// Everything written before is safe from here on.
    Flush,
    /// A note.
    Mark(Mark),
}

/// All of it; the written bytes are in a file beside.
#[derive(Debug)]
pub(crate) struct Log {
    records: Vec<Record>,
    data: File,
    data_length: u64,
}

impl Log {
    /// An empty one, whose bytes go to `path`.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let mut options = File::options();
        let data = options.read(true).write(true).create_new(true).open(path)?;
        Ok(Self {
            records: Vec::new(),
            data,
            data_length: 0,
        })
    }

    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.data.write_all_at(bytes, self.data_length)?;
        let length = bytes.len() as u64;
        self.records.push(Record::Write {
            offset,
            length,
            at: self.data_length,
        });
        self.data_length += length;
        Ok(())
    }

    pub(crate) fn flush(&mut self) {
        self.records.push(Record::Flush);
    }

    pub(crate) fn mark(&mut self, mark: Mark) {
        self.records.push(Record::Mark(mark));
    }

    /// Everything so far, taken out of here.
    pub(crate) fn take(&mut self) -> io::Result<Self> {
        Ok(Self {
            records: mem::take(&mut self.records),
            data: self.data.try_clone()?,
            data_length: self.data_length,
        })
    }

    pub(crate) fn records(&self) -> &[Record] {
        &self.records
    }

    /// `length` written bytes, from `at` on in the log's file.
    pub(crate) fn bytes(&self, at: u64, length: u64) -> io::Result<Vec<u8>> {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        self.data.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }
}
