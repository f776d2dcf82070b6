//! Carries the messages of [`crate::relay`] over a Unix stream socket, with a descriptor beside them
//! where one belongs.
//!
//! On the socket a message is its length (four bytes, little-endian) and its encoding. A descriptor
//! travels with the first byte of its message. The blocking forms are for the worker, the others for
//! the front; both ends may be mixed.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bincode::{Decode, Encode};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

use syncd_proto::codec;
use syncd_proto::limits::BODY_BYTES_MAX;

const LENGTH_BYTES: usize = 4;

/// The wire form of a message.
///
/// # Errors
/// A message above the limit of a body.
pub fn encode<T: Encode>(message: &T) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; LENGTH_BYTES];
    codec::encode(message, &mut bytes).map_err(invalid)?;
    let length = (bytes.len() - LENGTH_BYTES) as u32;
    bytes[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// Sends a message, and a descriptor with it; blocks.
///
/// # Errors
/// Those of the socket.
pub fn send<T: Encode>(
    socket: impl AsFd,
    message: &T,
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let bytes = encode(message)?;
    let mut outgoing = Outgoing::new(&bytes, descriptor);
    while !outgoing.is_done() {
        retry(|| outgoing.step(socket.as_fd()))?;
    }
    Ok(())
}

/// Receives a message, and the descriptor that came with it; blocks. `None` when the other side has
/// closed between messages.
///
/// # Errors
/// Those of the socket; a message cut off, above its limit or malformed.
pub fn receive<T: Decode<()> + Encode>(
    socket: impl AsFd,
) -> io::Result<Option<(T, Option<OwnedFd>)>> {
    let mut incoming = Incoming::default();
    loop {
        if let Some(message) = incoming.finish()? {
            return Ok(Some(message));
        }
        if !retry(|| incoming.step(socket.as_fd()))? {
            return incoming.end();
        }
    }
}

/// Sends a message, and a descriptor with it.
///
/// # Errors
/// Those of the socket.
pub async fn send_async<T: Encode>(
    socket: &UnixStream,
    message: &T,
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let bytes = encode(message)?;
    let mut outgoing = Outgoing::new(&bytes, descriptor);
    while !outgoing.is_done() {
        socket
            .async_io(Interest::WRITABLE, || outgoing.step(socket.as_fd()))
            .await?;
    }
    Ok(())
}

/// Receives messages one after the other; may be dropped and polled anew between any two bytes.
#[derive(Debug, Default)]
pub struct Receiver {
    incoming: Incoming,
}

impl Receiver {
    /// The next message; `None` when the other side has closed between messages.
    ///
    /// # Errors
    /// As [`receive`].
    pub async fn receive<T: Decode<()> + Encode>(
        &mut self,
        socket: &UnixStream,
    ) -> io::Result<Option<(T, Option<OwnedFd>)>> {
        loop {
            if let Some(message) = self.incoming.finish()? {
                self.incoming = Incoming::default();
                return Ok(Some(message));
            }
            let more = socket
                .async_io(Interest::READABLE, || self.incoming.step(socket.as_fd()))
                .await?;
            if !more {
                return self.incoming.end();
            }
        }
    }
}

struct Outgoing<'a> {
    bytes: &'a [u8],
    sent: usize,
    descriptor: Option<BorrowedFd<'a>>,
}

impl<'a> Outgoing<'a> {
    fn new(bytes: &'a [u8], descriptor: Option<BorrowedFd<'a>>) -> Self {
        Self {
            bytes,
            sent: 0,
            descriptor,
        }
    }

    fn is_done(&self) -> bool {
        self.sent == self.bytes.len()
    }

    fn step(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let rest = [IoSlice::new(&self.bytes[self.sent..])];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<BorrowedFd<'_>> = self.descriptor.into_iter().collect();
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::Error::other("no room for a descriptor"));
        }
        self.sent += sendmsg(socket, &rest, &mut control, SendFlags::NOSIGNAL)?;
        self.descriptor = None;
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Incoming {
    bytes: Vec<u8>,
    descriptor: Option<OwnedFd>,
}

impl Incoming {
    /// Bytes still wanted, as far as known now.
    fn wanted(&self) -> io::Result<usize> {
        let Some((length, content)) = self.bytes.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(LENGTH_BYTES - self.bytes.len());
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length > BODY_BYTES_MAX {
            return Err(invalid("relay message above its limit"));
        }
        Ok(length - content.len())
    }

    /// Reads once; false at the end of the stream.
    fn step(&mut self, socket: BorrowedFd<'_>) -> io::Result<bool> {
        let start = self.bytes.len();
        let mut chunk = vec![0; self.wanted()?];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut chunk)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptor = descriptors.last().or(self.descriptor.take());
            }
        }
        self.bytes.extend_from_slice(&chunk[..received.bytes]);
        Ok(self.bytes.len() > start)
    }

    fn finish<T: Decode<()> + Encode>(&mut self) -> io::Result<Option<(T, Option<OwnedFd>)>> {
        if self.wanted()? > 0 || self.bytes.len() < LENGTH_BYTES {
            return Ok(None);
        }
        let message = codec::decode(&self.bytes[LENGTH_BYTES..]).map_err(invalid)?;
        Ok(Some((message, self.descriptor.take())))
    }

    fn end<T>(&self) -> io::Result<Option<T>> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn invalid(error: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream as StdStream;

    use super::*;
    use crate::relay::{FromWorker, ToWorker};

    fn close(id: u64) -> ToWorker {
        ToWorker::Close {
            id,
            text: "x".repeat(70_000),
        }
    }

    #[test]
    fn a_descriptor_arrives_with_its_own_message() {
        let (front, worker) = StdStream::pair().unwrap();
        let (mut kept, passed) = StdStream::pair().unwrap();
        let sender = std::thread::spawn(move || {
            send(&front, &close(1), None).unwrap();
            send(&front, &close(2), Some(passed.as_fd())).unwrap();
            send(&front, &close(3), None).unwrap();
        });
        let mut found = Vec::new();
        while let Some((message, descriptor)) = receive::<ToWorker>(&worker).unwrap() {
            found.push((message, descriptor));
        }
        sender.join().unwrap();
        let messages: Vec<_> = found.iter().map(|(message, _)| message.clone()).collect();
        assert_eq!(messages, [close(1), close(2), close(3)]);
        let with: Vec<_> = found.iter().map(|(_, fd)| fd.is_some()).collect();
        assert_eq!(with, [false, true, false]);
        let mut there = StdStream::from(found.remove(1).1.unwrap());
        there.write_all(b"hello").unwrap();
        let mut bytes = [0; 5];
        kept.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
    }

    #[test]
    fn a_message_cut_off_is_an_error_and_a_hostile_length_too() {
        let (mut front, worker) = StdStream::pair().unwrap();
        let bytes = encode(&FromWorker::Ready).unwrap();
        front.write_all(&bytes[..LENGTH_BYTES]).unwrap();
        drop(front);
        assert!(receive::<FromWorker>(&worker).is_err());

        let (mut front, worker) = StdStream::pair().unwrap();
        front.write_all(&u32::MAX.to_le_bytes()).unwrap();
        assert!(receive::<FromWorker>(&worker).is_err());
    }

    #[tokio::test]
    async fn the_front_reads_what_the_worker_wrote_and_the_other_way() {
        let (front, worker) = StdStream::pair().unwrap();
        front.set_nonblocking(true).unwrap();
        let front = UnixStream::from_std(front).unwrap();
        let echo = std::thread::spawn(move || {
            let (message, _) = receive::<ToWorker>(&worker).unwrap().unwrap();
            send(&worker, &FromWorker::Ready, None).unwrap();
            message
        });
        send_async(&front, &close(7), None).await.unwrap();
        let mut receiver = Receiver::default();
        let answer = receiver.receive::<FromWorker>(&front).await.unwrap();
        assert_eq!(answer.map(|(message, _)| message), Some(FromWorker::Ready));
        assert_eq!(echo.join().unwrap(), close(7));
        assert!(
            receiver
                .receive::<FromWorker>(&front)
                .await
                .unwrap()
                .is_none()
        );
    }
}
