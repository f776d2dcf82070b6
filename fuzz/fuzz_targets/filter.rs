//! Any filter rules of a module and any path: what lies in a directory that is hidden is hidden too.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use syncd_proto::filter::{DaemonRules, Filter, Scope};
use syncd_proto::path::{Name, WirePath};

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    filter: &'a [u8],
    include: &'a [u8],
    exclude: &'a [u8],
    file: &'a [u8],
    names: Vec<&'a [u8]>,
}

fuzz_target!(|input: Input<'_>| {
    let rules = DaemonRules {
        filter: input.filter.to_vec(),
        include: input.include.to_vec(),
        exclude: input.exclude.to_vec(),
        exclude_from: if input.file.is_empty() {
            Vec::new()
        } else {
            b"/list".to_vec()
        },
        ..DaemonRules::default()
    };
    let mut read = |_: &std::path::Path| Ok(input.file.to_vec());
    let Ok(filter) = Filter::of_daemon(&rules, &mut read) else {
        return;
    };
    let names: Vec<Name> = input.names.iter().filter_map(|name| Name::new(name)).collect();
    let hidden = |depth: usize| {
        let path = WirePath::from_names(names.get(..depth)?.to_vec())?;
        let is_dir = depth < names.len();
        let verdict = filter.verdict(&path, is_dir, &mut |_| Scope::default());
        Some(!verdict.is_included())
    };
    let mut above = false;
    for depth in 1..=names.len() {
        let Some(here) = hidden(depth) else {
            return;
        };
        assert!(here || !above, "visible in a hidden directory");
        above = here;
    }
});
