//! Trees sent through TLS 1.3 with certificates at both ends, to a process that checks every digest, publishes each file
//! whole and answers with one byte when all of it is durable: the least for whoever promises what syncd promises.
//!
//! Nothing is compared, ordered, signed or resumed, and nobody else may change either tree. The same crates as in the
//! programs, without tasks: two threads read and hash what a third sends; there one decrypts for two that check and write.

use std::io::{self, Error, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::fs::{Mode, Timestamps};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{UnbufferedServerConnection, WebPkiClientVerifier};
use rustls::unbuffered::ConnectionState;
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, Stream};

use super::READY;
use super::block::{
    BLOCK_BYTES, HEADER_BYTES, Header, Kind, LANES, Lane, Outline, Packer, end, make_directories,
    set_times,
};
use super::copy::{joined, sync};

/// Blocks that go around between the threads of a process.
const BLOCKS: usize = 12;
/// More than a record of TLS, or a handshake, ever takes.
const RECORD_BYTES: usize = 32 << 10;
const DONE: u8 = 1;

/// A connection to [`sink`].
pub(super) struct Sender {
    tls: ClientConnection,
    socket: TcpStream,
}

impl Sender {
    pub(super) fn connect(address: &str, certs: &Path) -> io::Result<Self> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(Error::other)?
            .with_root_certificates(roots(certs)?)
            .with_client_auth_cert(chain(certs, "agent")?, key(certs, "agent")?)
            .map_err(Error::other)?;
        let name = ServerName::try_from("localhost").map_err(Error::other)?;
        let mut tls = ClientConnection::new(Arc::new(config), name).map_err(Error::other)?;
        tls.set_buffer_limit(None);
        let mut socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        tls.complete_io(&mut socket)?;
        Ok(Self { tls, socket })
    }

    /// Sends these names with everything below them and waits for the answer.
    pub(super) fn send(&mut self, source: &Path, names: &[&str]) -> io::Result<()> {
        let outline = Outline::of(source, names)?;
        self.write(&outline.block(source)?)?;
        let (give, empty) = blocks();
        let empty = Mutex::new(empty);
        thread::scope(|scope| {
            // Gone when this ends: nobody waits for more.
            let (give, (full, packed)) = (give, sync_channel(BLOCKS));
            let pack = |lane| {
                let packer = Packer::new(lane, &empty, full.clone());
                let outline = &outline;
                scope.spawn(move || packer.run(source, outline))
            };
            let packers: Vec<_> = (0..LANES).map(pack).collect();
            drop(full);
            for block in packed {
                self.write(&block)?;
                // Nobody may be left to fill it.
                let _ = give.send(block);
            }
            joined(packers)
        })?;
        self.write(&end())?;
        let mut answer = [0];
        Stream::new(&mut self.tls, &mut self.socket).read_exact(&mut answer)?;
        match answer {
            [DONE] => Ok(()),
            _ => Err(Error::other("an answer that is none")),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tls.writer().write_all(bytes)?;
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.socket)?;
        }
        Ok(())
    }
}

/// Takes trees from whoever has a certificate, for ever.
pub(super) fn sink(address: &str, mirror: &Path, certs: &Path, durable: bool) -> io::Result<()> {
    let config = server_config(certs)?;
    // The modes that are sent are those that files get.
    rustix::process::umask(Mode::empty());
    let listener = TcpListener::bind(address)?;
    println!("{READY}");
    for socket in listener.incoming() {
        let (socket, config, mirror) = (socket?, Arc::clone(&config), mirror.to_owned());
        thread::spawn(move || {
            let taken = Taker::new(socket, config).and_then(|taker| taker.run(&mirror, durable));
            taken.unwrap_or_else(|error| eprintln!("{error}"));
        });
    }
    Ok(())
}

fn server_config(certs: &Path) -> io::Result<Arc<ServerConfig>> {
    let roots = Arc::new(roots(certs)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(Error::other)?
        .with_client_cert_verifier(verifier.map_err(Error::other)?)
        .with_single_cert(chain(certs, "server")?, key(certs, "server")?)
        .map_err(Error::other)?;
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The end that decrypts where it has read.
struct Taker {
    tls: UnbufferedServerConnection,
    socket: TcpStream,
    buffer: Vec<u8>,
    /// What in the buffer was not decrypted yet.
    start: usize,
    end: usize,
    /// What is to be sent.
    out: Vec<u8>,
    /// Trees that are there and were not answered.
    answers: usize,
}

impl Taker {
    fn new(socket: TcpStream, config: Arc<ServerConfig>) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        Ok(Self {
            tls: UnbufferedServerConnection::new(config).map_err(Error::other)?,
            socket,
            buffer: vec![0; BLOCK_BYTES + RECORD_BYTES],
            start: 0,
            end: 0,
            out: Vec::new(),
            answers: 0,
        })
    }

    /// One tree after the other, until the sender goes.
    fn run(mut self, mirror: &Path, durable: bool) -> io::Result<()> {
        while self.tree(mirror)? {
            if durable {
                sync(mirror)?;
            }
            self.answers += 1;
        }
        Ok(())
    }

    /// False if none came.
    fn tree(&mut self, mirror: &Path) -> io::Result<bool> {
        let (give, empty) = blocks();
        thread::scope(|scope| {
            let mut running = Vec::new();
            let mut lane = || {
                let (full, packed) = sync_channel::<Vec<u8>>(BLOCKS);
                let give = give.clone();
                running.push(scope.spawn(move || Lane::new(mirror).run(&packed, &give)));
                full
            };
            let lanes = (0..LANES).map(|_| lane()).collect();
            drop(give);
            let mut splitter = Splitter {
                mirror,
                lanes,
                empty,
                block: Vec::new(),
                made: Vec::new(),
                ended: false,
            };
            while !splitter.ended {
                if !self.pull(&mut splitter)? {
                    let whole = splitter.made.is_empty() && splitter.block.is_empty();
                    let cut = Err(io::ErrorKind::UnexpectedEof.into());
                    return if whole { Ok(false) } else { cut };
                }
            }
            splitter.lanes.clear();
            joined(running)?;
            set_times(&splitter.made)?;
            Ok(true)
        })
    }

    /// The next step of TLS; false if the other side has gone.
    fn pull(&mut self, splitter: &mut Splitter<'_>) -> io::Result<bool> {
        let incoming = &mut self.buffer[self.start..self.end];
        let status = self.tls.process_tls_records(incoming);
        let mut discard = status.discard;
        let mut hungry = false;
        match status.state.map_err(Error::other)? {
            ConnectionState::ReadTraffic(mut records) => {
                while let Some(record) = records.next_record() {
                    let record = record.map_err(Error::other)?;
                    discard += record.discard;
                    splitter.feed(record.payload)?;
                }
            }
            ConnectionState::EncodeTlsData(mut data) => {
                let at = self.out.len();
                self.out.resize(at + RECORD_BYTES, 0);
                let encoded = data.encode(&mut self.out[at..]).map_err(Error::other)?;
                self.out.truncate(at + encoded);
            }
            ConnectionState::TransmitTlsData(data) => {
                self.socket.write_all(&self.out)?;
                self.out.clear();
                data.done();
            }
            ConnectionState::WriteTraffic(mut traffic) if self.answers > 0 => {
                let mut record = [0; 64];
                let len = traffic
                    .encrypt(&[DONE], &mut record)
                    .map_err(Error::other)?;
                self.socket.write_all(&record[..len])?;
                self.answers -= 1;
            }
            ConnectionState::WriteTraffic(_) | ConnectionState::BlockedHandshake => hungry = true,
            _ => return Ok(false),
        }
        self.start += discard;
        match hungry {
            true => self.read(),
            false => Ok(true),
        }
    }

    fn read(&mut self) -> io::Result<bool> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let read = self.socket.read(&mut self.buffer[self.end..])?;
        self.end += read;
        Ok(read > 0)
    }
}

/// Makes blocks of what comes and gives each to its lane; does itself what concerns all.
struct Splitter<'a> {
    mirror: &'a Path,
    lanes: Vec<SyncSender<Vec<u8>>>,
    empty: Receiver<Vec<u8>>,
    block: Vec<u8>,
    made: Vec<(PathBuf, Timestamps)>,
    ended: bool,
}

impl Splitter<'_> {
    fn feed(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let whole = match self.block.len() < HEADER_BYTES {
                true => HEADER_BYTES,
                false => HEADER_BYTES + Header::of(&self.block)?.len,
            };
            let wanted = whole - self.block.len();
            let (now, rest) = bytes.split_at(wanted.min(bytes.len()));
            self.block.extend_from_slice(now);
            bytes = rest;
            if self.block.len() >= HEADER_BYTES {
                let header = Header::of(&self.block)?;
                if self.block.len() == HEADER_BYTES + header.len {
                    self.block(header)?;
                }
            }
        }
        Ok(())
    }

    fn block(&mut self, header: Header) -> io::Result<()> {
        match header.kind {
            Kind::Outline => self.made = make_directories(self.mirror, &self.block)?,
            Kind::End => self.ended = true,
            _ => {
                let empty = self.empty.recv().map_err(Error::other)?;
                let full = std::mem::replace(&mut self.block, empty);
                self.lanes[header.lane].send(full).map_err(Error::other)?;
            }
        }
        self.block.clear();
        Ok(())
    }
}

/// What goes around.
fn blocks() -> (SyncSender<Vec<u8>>, Receiver<Vec<u8>>) {
    let (give, empty) = sync_channel(BLOCKS);
    for _ in 0..BLOCKS {
        let _ = give.send(Vec::with_capacity(HEADER_BYTES + BLOCK_BYTES));
    }
    (give, empty)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn roots(certs: &Path) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for authority in chain(certs, "ca")? {
        roots.add(authority).map_err(Error::other)?;
    }
    Ok(roots)
}

fn chain(certs: &Path, name: &str) -> io::Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_file_iter(certs.join(name).with_extension("pem"));
    let found = found.and_then(Iterator::collect);
    found.map_err(Error::other)
}

fn key(certs: &Path, name: &str) -> io::Result<PrivateKeyDer<'static>> {
    let file = certs.join(name).with_extension("key");
    PrivateKeyDer::from_pem_file(file).map_err(Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::Duration;
    use syncd_tests::Sandbox;
    use syncd_tests::sandbox::wait_equal;
    use syncd_tests::tree::Options;

    /// A connection, and what takes from it.
    fn pair(sandbox: &Sandbox, mirror: &Path) -> (Sender, thread::JoinHandle<io::Result<()>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (config, mirror) = (server_config(&sandbox.certs()).unwrap(), mirror.to_owned());
        let taker =
            thread::spawn(move || Taker::new(listener.accept()?.0, config)?.run(&mirror, true));
        (Sender::connect(&address, &sandbox.certs()).unwrap(), taker)
    }

    fn roots_of(sandbox: &Sandbox) -> [PathBuf; 2] {
        let roots = ["a", "b"].map(|name| sandbox.path().join(name));
        roots.iter().for_each(|root| fs::create_dir(root).unwrap());
        roots
    }

    #[test]
    fn trees_that_are_sent_equal_their_source_again_and_again() {
        let sandbox = Sandbox::new();
        let [source, mirror] = roots_of(&sandbox);
        fs::create_dir_all(source.join("d/e")).unwrap();
        fs::write(source.join("d/empty"), "").unwrap();
        for index in 0..300 {
            fs::write(
                source.join(format!("d/e/{index}")),
                vec![index as u8; 40 * index],
            )
            .unwrap();
        }
        for (name, len) in [
            ("d/large", 5_000_003),
            ("middle", (128 << 10) + 1),
            ("small", 128 << 10),
        ] {
            fs::write(source.join(name), vec![7; len]).unwrap();
        }
        let (mut sender, taker) = pair(&sandbox, &mirror);
        let equal = || wait_equal(&source, &mirror, &Options::default(), Duration::ZERO);
        sender.send(&source, &[""]).unwrap();
        equal();
        for name in ["d/empty", "d/large"] {
            fs::write(source.join(name), vec![8; 20 << 20]).unwrap();
        }
        sender.send(&source, &["d/empty", "d/large"]).unwrap();
        equal();
        drop(sender);
        taker.join().unwrap().unwrap();
    }

    #[test]
    fn content_without_its_digest_is_neither_answered_nor_published() {
        let sandbox = Sandbox::new();
        let [source, mirror] = roots_of(&sandbox);
        for (name, len) in [("small", 4096), ("large", 600_000)] {
            fs::write(source.join(name), vec![7; len]).unwrap();
            let outline = Outline::of(&source, &[name]).unwrap();
            let (give, empty) = blocks();
            let (full, packed) = sync_channel(BLOCKS);
            Packer::new(0, &Mutex::new(empty), full)
                .run(&source, &outline)
                .unwrap();
            let mut packed: Vec<_> = packed.into_iter().collect();
            // The last byte of the content.
            let last = packed.len() - if len > 4096 { 2 } else { 1 };
            *packed[last].last_mut().unwrap() ^= 1;
            let (mut sender, taker) = pair(&sandbox, &mirror);
            sender.write(&outline.block(&source).unwrap()).unwrap();
            for block in packed.iter().chain([&end()]) {
                sender.write(block).unwrap();
            }
            let refused = taker.join().unwrap().unwrap_err();
            assert_eq!(refused.to_string(), "content without its digest");
            assert!(!mirror.join(name).exists());
            drop(give);
        }
    }

    #[test]
    fn a_sender_that_goes_before_the_end_is_an_error() {
        let sandbox = Sandbox::new();
        let [source, mirror] = roots_of(&sandbox);
        let (mut sender, taker) = pair(&sandbox, &mirror);
        let outline = Outline::of(&source, &[""]).unwrap();
        sender.write(&outline.block(&source).unwrap()).unwrap();
        drop(sender);
        assert!(taker.join().unwrap().is_err());
    }

    #[test]
    fn nobody_is_taken_from_without_a_certificate_of_the_authority() {
        let (ours, theirs) = (Sandbox::new(), Sandbox::new());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let config = server_config(&ours.certs()).unwrap();
        let mirror = ours.path().to_owned();
        let taker =
            thread::spawn(move || Taker::new(listener.accept()?.0, config)?.run(&mirror, true));
        assert!(Sender::connect(&address, &theirs.certs()).is_err());
        assert!(taker.join().unwrap().is_err());
    }
}
