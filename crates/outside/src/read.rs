//! Reads that end at a bound, whatever is read.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};
use thiserror::Error;

/// Why nothing was read. The text does not name the file: the caller does.
#[derive(Debug, Error)]
pub enum ReadError {
    /// It cannot be opened or read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is a folder.
    #[error("it is a folder, not a file")]
    Folder,
    /// It is a file of more bytes than are allowed; nothing of it was read.
    #[error("it has {size} bytes; {most} are allowed")]
    TooLarge {
        /// Its size in bytes.
        size: u64,
        /// The most that is allowed.
        most: u64,
    },
    /// It gives more bytes than are allowed: a device, a pipe, or a file that grows.
    #[error("it has more than {most} bytes, which is the most that is allowed")]
    Endless {
        /// The most that is allowed.
        most: u64,
    },
    /// It is no text.
    #[error("it is not valid UTF-8: {0}")]
    NotText(std::str::Utf8Error),
}

/// All bytes of a file, a pipe or a device, of which there may be `most` at most. Memory follows from `most`, and not from what
/// the file says of itself.
///
/// Opening a named pipe waits for its writer, as every program does.
///
/// # Errors
/// [`ReadError`].
pub fn read_limited(path: &Path, most: u64) -> Result<Vec<u8>, ReadError> {
    let file = File::open(path)?;
    // Of the open file: between two looks at a name another file may take its place.
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(ReadError::Folder);
    }
    if metadata.len() > most {
        return Err(ReadError::TooLarge { size: metadata.len(), most });
    }
    read_stream_limited(file, most)
}

/// All bytes of a stream, of which there may be `most` at most.
///
/// # Errors
/// [`ReadError::Io`] and [`ReadError::Endless`].
pub fn read_stream_limited(stream: impl Read, most: u64) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    stream.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(ReadError::Endless { most });
    }
    Ok(bytes)
}

/// As [`read_limited`], a text in UTF-8.
///
/// # Errors
/// [`ReadError`].
pub fn read_text_limited(path: &Path, most: u64) -> Result<String, ReadError> {
    String::from_utf8(read_limited(path, most)?).map_err(|e| ReadError::NotText(e.utf8_error()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use std::{fs, io::Write, thread};

    #[test]
    fn a_file_is_read_up_to_its_bound_and_not_beyond() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "seven b").unwrap();
        assert_eq!(read_limited(&path, 7).unwrap(), b"seven b");
        assert!(matches!(read_limited(&path, 6), Err(ReadError::TooLarge { size: 7, most: 6 })));
        assert!(matches!(read_limited(folder.path(), 6), Err(ReadError::Folder)));
        assert!(matches!(read_limited(&folder.path().join("none"), 6), Err(ReadError::Io(_))));
        fs::write(&path, [0xff]).unwrap();
        assert!(matches!(read_text_limited(&path, 6), Err(ReadError::NotText(_))));
    }

    #[test]
    fn what_says_that_it_is_empty_is_bounded_too() {
        let endless = read_limited(Path::new("/dev/zero"), 1 << 20);
        assert!(matches!(endless, Err(ReadError::Endless { most: 1_048_576 })));
        assert!(read_limited(Path::new("/proc/self/status"), 1 << 20).is_ok_and(|text| !text.is_empty()));
    }

    #[test]
    fn a_named_pipe_is_read_to_its_end_or_its_bound() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        for (most, is_read) in [(5, true), (4, false)] {
            let writer = thread::spawn({
                let path = path.clone();
                move || File::options().write(true).open(path).unwrap().write_all(b"12345")
            });
            assert_eq!(read_limited(&path, most).is_ok(), is_read);
            writer.join().unwrap().unwrap();
        }
    }
}
