//! Bytes of files as one TCP stream, answered by one byte when the last has been read.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;

use super::READY;

const BUFFER_BYTES: usize = 256 * 1024;

/// Reads what comes from anybody, for ever.
pub(super) fn sink(address: &str) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    println!("{READY}");
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || take(stream));
    }
    Ok(())
}

/// A length, as many bytes, an answer, and again.
fn take(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let mut length = [0; 8];
        stream.read_exact(&mut length)?;
        let mut left = u64::from_be_bytes(length);
        while left > 0 {
            let wanted = left.min(BUFFER_BYTES as u64) as usize;
            match stream.read(&mut buffer[..wanted])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => left -= read as u64,
            }
        }
        stream.write_all(&[1])?;
    }
}

/// A connection to a sink.
pub(super) fn connect(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends all files below these names and waits for the answer.
pub(super) fn send(stream: &mut TcpStream, source: &Path, names: &[&str]) -> io::Result<()> {
    let mut files = Vec::new();
    for name in names {
        list(source.join(name), &mut files)?;
    }
    let total: u64 = files.iter().map(|(_, size)| size).sum();
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    buffer.extend(total.to_be_bytes());
    for (path, size) in files {
        let mut file = File::open(path)?;
        let mut left = size;
        while left > 0 {
            let room = (BUFFER_BYTES - buffer.len()) as u64;
            let read = (&mut file).take(left.min(room)).read_to_end(&mut buffer)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= read as u64;
            if buffer.len() == BUFFER_BYTES {
                stream.write_all(&buffer)?;
                buffer.clear();
            }
        }
    }
    stream.write_all(&buffer)?;
    stream.read_exact(&mut [0])
}

fn list(path: PathBuf, files: &mut Vec<(PathBuf, u64)>) -> io::Result<()> {
    let metadata = fs::symlink_metadata(&path)?;
    if !metadata.is_dir() {
        files.push((path, metadata.len()));
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        list(entry?.path(), files)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_sent_and_answered_again_and_again() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/empty"), "").unwrap();
        fs::write(dir.path().join("d/large"), vec![7; 3 * BUFFER_BYTES + 5]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = thread::spawn(move || take(listener.accept().unwrap().0));
        let mut stream = connect(&address).unwrap();
        for names in [&["d"][..], &["d/empty"], &["d/large", "d"]] {
            send(&mut stream, dir.path(), names).unwrap();
        }
        drop(stream);
        assert!(server.join().unwrap().is_err(), "it ends with the sender");
    }
}
