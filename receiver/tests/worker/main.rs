//! The worker as the front starts it: a process with a control socket, sessions on socket pairs, and
//! real files below it.

mod bench;
mod hidden;
mod mounts;
mod nameless;
mod operations;
mod sessions;
mod transfers;
mod trash;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bench::{Agent, Bench, dir_meta, meta, path};
use syncd_proto::digest::Digest;
use syncd_proto::message::{
    Basis, DigestQuery, Durability, FEATURE_SPARE, IdQuery, PatchOp, Ping, Purpose,
    ReceiverMessage, Rejected, SignatureInfo, SignatureQuery, SignatureWant, StageAbort,
    StageBegin, StageChunk, StageEnd,
};
use syncd_proto::meta::{Kind, Meta};
use syncd_proto::op::{Content, Expect, IdKind, IdName, Op};
use syncd_proto::reject::RejectCode;
use syncd_recv::logic::removals::MaxDelete;
use syncd_recv::relay::{Chroot, Filters, FromWorker, RunAs, ToWorker};

fn put(at: &str, content: &[u8]) -> (Op, Vec<u8>) {
    let op = Op::Put {
        path: path(at),
        meta: meta(0o640),
        content: Content::Inline {
            len: content.len() as u32,
            digest: Digest::of(content),
        },
    };
    (op, content.to_vec())
}

fn mkdir(at: &str) -> (Op, Vec<u8>) {
    let op = Op::Mkdir {
        path: path(at),
        meta: dir_meta(),
    };
    (op, Vec::new())
}

fn bare(op: Op) -> (Op, Vec<u8>) {
    (op, Vec::new())
}

fn remove(at: &str) -> (Op, Vec<u8>) {
    bare(Op::Remove {
        path: path(at),
        recursive: true,
    })
}

fn rename(from: &str, to: &str) -> (Op, Vec<u8>) {
    bare(Op::Rename {
        from: path(from),
        to: path(to),
        expect: None,
    })
}

fn codes(rejects: &[(u32, RejectCode)]) -> Vec<RejectCode> {
    rejects.iter().map(|(_, code)| *code).collect()
}

fn staged(at: &str, transfer: u64, content: &[u8]) -> Op {
    Op::Put {
        path: path(at),
        meta: meta(0o644),
        content: Content::Staged {
            transfer,
            len: content.len() as u64,
            digest: Digest::of(content),
        },
    }
}

impl Agent {
    fn ask_ids(&mut self, names: Vec<IdName>) {
        self.say(IdQuery { id: 1, names });
    }

    fn hear_ids(&mut self) -> Vec<u32> {
        self.find(|message| match message {
            ReceiverMessage::Ids(ids) => Some(ids.numbers.clone()),
            _ => None,
        })
    }

    fn begin(&mut self, transfer: u64, basis: Option<Basis>, key: Option<Digest>, resume_at: u64) {
        self.say(StageBegin {
            transfer,
            len_hint: 0,
            basis,
            key,
            resume_at,
        });
    }

    fn chunk(&mut self, transfer: u64, ops: Vec<PatchOp>, payload: &[u8]) {
        let chunk = StageChunk { transfer, ops };
        self.say_with(chunk, payload.to_vec());
    }

    fn end(&mut self, transfer: u64, content: &[u8]) {
        self.say(StageEnd {
            transfer,
            len: content.len() as u64,
            digest: Digest::of(content),
        });
    }

    fn ping(&mut self, token: u64) {
        self.say(Ping { token });
    }

    fn wait_pong(&mut self, token: u64) {
        self.find(|message| match message {
            ReceiverMessage::Pong(pong) => (pong.token == token).then_some(()),
            _ => None,
        });
    }

    fn digest(&mut self, at: &str) -> Option<Digest> {
        self.say(DigestQuery {
            id: 1,
            paths: vec![path(at)],
            content: false,
        });
        self.find(|message| match message {
            ReceiverMessage::Digests(answer) => Some(answer.digests[0]),
            _ => None,
        })
    }

    fn signature(&mut self, at: &str, want: SignatureWant) -> Option<SignatureInfo> {
        self.say(SignatureQuery {
            id: 2,
            path: path(at),
            want,
        });
        self.find(|message| match message {
            ReceiverMessage::Signature(signature) => Some(signature.info.clone()),
            _ => None,
        })
    }

    fn rejected(&mut self) -> (Rejected, RejectCode) {
        self.find(|message| match message {
            ReceiverMessage::Reject(reject) => Some((reject.what, reject.code)),
            _ => None,
        })
    }
}
