//! Whole frames from a stream and onto it.

use std::fmt;
use std::io;

use syncd_proto::error::ProtocolError;
use syncd_proto::frame::{Frame, FrameLimits, HEADER_BYTES, Header};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

/// Frames are gathered into writes of at least this many bytes while more are waiting.
pub const WRITE_BYTES: usize = 256 << 10;

/// Why there is no further frame.
#[derive(Debug)]
pub enum ReadError {
    /// The stream failed, or ended within a frame.
    Io(io::Error),
    /// The bytes are not a frame.
    Protocol(ProtocolError),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "cannot read from the receiver: {error}"),
            Self::Protocol(error) => write!(f, "the receiver broke the protocol: {error}"),
        }
    }
}

impl std::error::Error for ReadError {}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Reads frames; body and payload go straight into their own memory.
#[derive(Debug)]
pub struct FrameReader<R> {
    stream: R,
    limits: FrameLimits,
    head: [u8; HEADER_BYTES],
    head_len: usize,
    partial: Option<Partial>,
}

/// A frame whose header has come.
#[derive(Debug)]
struct Partial {
    frame: Frame,
    filled: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// A reader at the boundary between two frames.
    pub fn new(stream: R, limits: FrameLimits) -> Self {
        Self {
            stream,
            limits,
            head: [0; HEADER_BYTES],
            head_len: 0,
            partial: None,
        }
    }

    /// The next frame; `None` if the stream ended between two. May be dropped and called again
    /// (as `select!` does) without losing a byte.
    ///
    /// # Errors
    /// [`ReadError`]; the stream is of no use then.
    pub async fn next(&mut self) -> Result<Option<Frame>, ReadError> {
        loop {
            if let Some(partial) = &mut self.partial {
                if partial.is_whole() {
                    return Ok(self.partial.take().map(|partial| partial.frame));
                }
                let count = self.stream.read(partial.room()).await?;
                require(count)?;
                partial.filled += count;
                continue;
            }
            let count = self.stream.read(&mut self.head[self.head_len..]).await?;
            if count == 0 && self.head_len == 0 {
                return Ok(None);
            }
            require(count)?;
            self.head_len += count;
            if self.head_len == HEADER_BYTES {
                self.begin()?;
            }
        }
    }

    fn begin(&mut self) -> Result<(), ReadError> {
        let header = Header::parse(&self.head, self.limits)
            .map_err(|error| ReadError::Protocol(error.into()))?;
        self.head_len = 0;
        self.partial = Some(Partial {
            frame: Frame {
                seq: header.seq,
                kind: header.kind,
                body: vec![0; header.body_len],
                payload: vec![0; header.payload_len],
                packed: header.packed,
            },
            filled: 0,
        });
        Ok(())
    }
}

impl Partial {
    fn is_whole(&self) -> bool {
        self.filled == self.frame.body.len() + self.frame.payload.len()
    }

    fn room(&mut self) -> &mut [u8] {
        let body_len = self.frame.body.len();
        match self.filled.checked_sub(body_len) {
            None | Some(0) if self.filled < body_len => &mut self.frame.body[self.filled..],
            beyond => &mut self.frame.payload[beyond.unwrap_or(0)..],
        }
    }
}

fn require(count: usize) -> io::Result<()> {
    match count {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// Writes frames, several at a time where several are waiting.
#[derive(Debug)]
pub struct FrameWriter<W> {
    stream: W,
    buffer: Vec<u8>,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// A writer at the boundary between two frames.
    pub fn new(stream: W) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// Takes a frame; it is sent when enough have gathered, or with [`FrameWriter::flush`].
    ///
    /// # Errors
    /// Those of the stream.
    pub async fn feed(&mut self, frame: &Frame) -> io::Result<()> {
        if frame.payload.len() >= WRITE_BYTES {
            self.buffer.extend_from_slice(&frame.header().to_bytes());
            self.buffer.extend_from_slice(&frame.body);
            self.write_out().await?;
            return self.stream.write_all(&frame.payload).await;
        }
        frame.write_to(&mut self.buffer);
        if self.buffer.len() >= WRITE_BYTES {
            self.write_out().await?;
        }
        Ok(())
    }

    /// Sends everything taken so far.
    ///
    /// # Errors
    /// Those of the stream.
    pub async fn flush(&mut self) -> io::Result<()> {
        self.write_out().await?;
        self.stream.flush().await
    }

    /// Sends frames as they come, until the other end of `queue` is gone; then closes the stream.
    ///
    /// # Errors
    /// Those of the stream.
    pub async fn run(mut self, mut queue: mpsc::Receiver<Frame>) -> io::Result<()> {
        while let Some(frame) = queue.recv().await {
            self.feed(&frame).await?;
            while let Ok(frame) = queue.try_recv() {
                self.feed(&frame).await?;
            }
            self.flush().await?;
        }
        self.stream.shutdown().await
    }

    async fn write_out(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.stream.write_all(&self.buffer).await?;
            self.buffer.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use syncd_proto::limits::HANDSHAKE_BODY_BYTES_MAX;

    use super::*;

    fn frame(seq: u64, body: usize, payload: usize) -> Frame {
        Frame {
            seq,
            kind: 11,
            body: vec![seq as u8; body],
            payload: vec![!seq as u8; payload],
            packed: false,
        }
    }

    fn frames() -> Vec<Frame> {
        vec![
            frame(0, 0, 0),
            frame(1, 3, 0),
            frame(2, 0, 5),
            frame(3, 700, WRITE_BYTES + 1),
            frame(4, 1, 1),
        ]
    }

    #[tokio::test]
    async fn what_is_written_is_read_again() {
        let (near, far) = tokio::io::duplex(100);
        let (send, queue) = mpsc::channel(8);
        let writer = tokio::spawn(FrameWriter::new(near).run(queue));
        for frame in frames() {
            send.send(frame).await.unwrap();
        }
        drop(send);
        let mut reader = FrameReader::new(far, FrameLimits::SESSION);
        for frame in frames() {
            assert_eq!(reader.next().await.unwrap(), Some(frame));
        }
        assert!(reader.next().await.unwrap().is_none());
        writer.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_interrupted_read_loses_nothing() {
        let (mut near, far) = tokio::io::duplex(1);
        let mut wire = Vec::new();
        for frame in [frame(0, 3, 5), frame(1, 2, 0)] {
            frame.write_to(&mut wire);
        }
        let writer = tokio::spawn(async move { near.write_all(&wire).await });
        let mut reader = FrameReader::new(far, FrameLimits::SESSION);
        let mut found = Vec::new();
        while found.len() < 2 {
            tokio::select! {
                biased;
                frame = reader.next() => found.extend(frame.unwrap()),
                () = tokio::task::yield_now() => {}
            }
        }
        assert_eq!(found, [frame(0, 3, 5), frame(1, 2, 0)]);
        writer.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_stream_that_ends_within_a_frame_is_an_error() {
        let mut wire = Vec::new();
        frame(0, 3, 5).write_to(&mut wire);
        for cut in 1..wire.len() {
            let mut reader = FrameReader::new(&wire[..cut], FrameLimits::SESSION);
            assert!(matches!(reader.next().await, Err(ReadError::Io(_))));
        }
    }

    #[tokio::test]
    async fn a_frame_above_its_limit_is_refused_by_its_header() {
        let head = frame(0, HANDSHAKE_BODY_BYTES_MAX + 1, 0)
            .header()
            .to_bytes();
        let mut reader = FrameReader::new(&head[..], FrameLimits::HANDSHAKE);
        assert!(matches!(reader.next().await, Err(ReadError::Protocol(_))));
    }
}
