//! Any text as rsyncd.conf, with files that include each other: read without a panic, and what is accepted
//! strictly is accepted as rsync reads it too, with the same modules.
#![no_main]

use libfuzzer_sys::fuzz_target;
use syncd_recv::logic::rsyncd_conf::{ConfigSource, Entry, Reading, SourceError, Variables, load};

struct Files<'a>(Vec<&'a [u8]>);

impl ConfigSource for Files<'_> {
    fn read(&mut self, path: &[u8]) -> Result<Entry, SourceError> {
        match path {
            b"/etc/rsyncd.d" => Ok(Entry::Directory(vec![
                b"a.conf".to_vec(),
                b"b.inc".to_vec(),
            ])),
            _ => {
                let index = path.len() % (self.0.len() + 1);
                let file = self
                    .0
                    .get(index)
                    .ok_or(SourceError("no such file".into()))?;
                Ok(Entry::File(file.to_vec()))
            }
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    // NUL bytes part the files.
    let files: Vec<&[u8]> = bytes.split(|byte| *byte == 0).take(4).collect();
    let variables = Variables::new().with(b"HOME", b"/root");
    let read = |reading| load(&mut Files(files.clone()), b"", &variables, reading);
    let strict = read(Reading::Strict);
    let lenient = read(Reading::AsRsync);
    if let Ok(strict) = strict {
        let lenient = lenient.expect("refused as rsync reads it, accepted strictly");
        let names = |listing: &mut dyn Iterator<Item = Vec<u8>>| listing.collect::<Vec<_>>();
        let ours = names(&mut strict.config.listing().map(|(name, _)| name.to_vec()));
        let theirs = names(&mut lenient.config.listing().map(|(name, _)| name.to_vec()));
        assert_eq!(ours, theirs);
        for name in ours {
            // Such a name is a command, as `#list` is: nobody can ask for that module.
            let is_command = name.starts_with(b"#");
            assert!(is_command || strict.config.module(&name).is_some());
        }
    }
});
