//! The keys of `agent.toml`.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::reader::{Place, Section, whole_number};
use super::{
    AccessOptions, Backend, Config, ConfigError, FullCheck, Log, LogFormat, LogLevel, MaxDelete,
    Source, SourceOptions, TargetConfig, WINDOW_S_MAX, check_range,
};
use crate::logic::cron::Cron;
use crate::logic::filter::{Origin, Preset, Rules, Statement};
use crate::logic::rate::{self, Bwlimit, Days, RateError, Slot, TimeOfDay};
use crate::logic::target::Target;

pub(super) fn parse(text: &str, base: &Path) -> Result<Config, ConfigError> {
    let place = Place::new(text);
    let document = DeTable::parse(text).map_err(|error| {
        let message = error.message().replace('\n', "; ");
        place.error(error.span().unwrap_or_default(), message)
    })?;
    let mut top = Section::new(place, "the top level", 0..0, document.get_ref());
    let control = path(&mut top, "control", base)?;
    let log = match top.table("log", "[log]")? {
        Some(section) => log(section)?,
        None => Log::default(),
    };
    let mut sources = Vec::new();
    for section in top.tables("source", "source")? {
        let found = source(section, base, &sources)?;
        sources.push(found);
    }
    top.finish()?;
    if sources.is_empty() {
        return Err(
            top.error("nothing to mirror: add a [[source]] with a path and a [[source.target]]")
        );
    }
    Ok(Config {
        control,
        log,
        sources,
    })
}

fn log(mut section: Section<'_>) -> Result<Log, ConfigError> {
    let level = choice(&mut section, "level", &LogLevel::NAMES)?;
    let format = choice(&mut section, "format", &LogFormat::NAMES)?;
    section.finish()?;
    let default = Log::default();
    Ok(Log {
        level: level.unwrap_or(default.level),
        format: format.unwrap_or(default.format),
    })
}

fn source(
    mut section: Section<'_>,
    base: &Path,
    earlier: &[Source],
) -> Result<Source, ConfigError> {
    let path = path(&mut section, "path", base)?;
    let options = SourceOptions {
        path: path.clone().unwrap_or_default(),
        delete: section.flag("delete")?,
        settle_ms: section.number("settle_ms")?,
        hold_max_ms: section.number("hold_max_ms")?,
        backend: choice(&mut section, "backend", &Backend::NAMES)?,
        max_delete: max_delete(&mut section)?,
        xattrs: section.flag("xattrs")?,
        acls: section.flag("acls")?,
        capabilities: section.flag("capabilities")?,
        rules: rules(&mut section, base)?,
        full_check: full_check(&mut section)?,
        idle_check_s: section.number("idle_check_s")?,
    };
    let mut targets: Vec<TargetConfig> = Vec::new();
    for part in section.tables("target", "source.target")? {
        let known = earlier.iter().flat_map(|source| &source.targets);
        let found = target(part, base, known.chain(&targets))?;
        targets.push(found);
    }
    // A misspelt key explains a missing one better than its absence does.
    section.finish()?;
    if path.is_none() {
        return Err(section.error("[[source]] has no path: name the directory to mirror"));
    }
    if targets.is_empty() {
        return Err(section.error("[[source]] has no target: add a [[source.target]] with `to`"));
    }
    options
        .build(targets)
        .map_err(|error| section.error(error.what))
}

fn target<'a>(
    mut section: Section<'_>,
    base: &Path,
    mut earlier: impl Iterator<Item = &'a TargetConfig>,
) -> Result<TargetConfig, ConfigError> {
    let text = section.text("to")?;
    let bwlimit = bwlimit(&mut section)?;
    let options = AccessOptions {
        ca: path(&mut section, "ca", base)?,
        cert: path(&mut section, "cert", base)?,
        key: path(&mut section, "key", base)?,
        password_file: path(&mut section, "password_file", base)?,
        server_name: section.text("server_name")?.map(str::to_owned),
        connect_timeout_ms: section.number("connect_timeout_ms")?,
        compress: section.flag("compress")?,
    };
    section.finish()?;
    let text = text.ok_or_else(|| {
        section.error("[[source.target]] has no `to`: write to = \"USER@HOST::MODULE\"")
    })?;
    let to = Target::parse(text.as_bytes(), None)
        .map_err(|error| section.error_at("to", format!("{error}; {}", error.hint())))?;
    let place = |to: &Target| {
        (
            to.host.clone(),
            to.port,
            to.module.clone(),
            to.sub_path.clone(),
        )
    };
    if earlier.any(|other| place(&other.to) == place(&to)) {
        return Err(section.error_at(
            "to",
            format!("{to} is a target already: two writers of one place would undo each other"),
        ));
    }
    let access = options
        .build(to.user.as_deref())
        .map_err(|error| section.error(error.what))?;
    Ok(TargetConfig {
        to,
        access,
        bwlimit,
    })
}

/// One limit, or a timetable of them.
fn bwlimit(section: &mut Section<'_>) -> Result<Option<Bwlimit>, ConfigError> {
    let Some(DeValue::Array(_)) = section.take("bwlimit").map(Spanned::get_ref) else {
        return Ok(rate(section, "bwlimit")?.map(Bwlimit::always));
    };
    let mut slots = Vec::new();
    for mut part in section.tables("bwlimit", "source.target.bwlimit")? {
        let clock = |part: &mut Section<'_>, key| match part.text(key)? {
            None => Ok(None),
            Some(text) => TimeOfDay::parse(text)
                .map(Some)
                .map_err(|error| part.error_at(key, format!("{key}: {error}"))),
        };
        let (from, to) = (clock(&mut part, "from")?, clock(&mut part, "to")?);
        let days = match part.text("days")? {
            None => Days::ALL,
            Some(text) => Days::parse(text)
                .map_err(|error| part.error_at("days", format!("days: {error}")))?,
        };
        let rate = rate(&mut part, "rate")?;
        part.finish()?;
        let rate = rate.ok_or_else(|| {
            part.error("a limit has no `rate`: write bytes per second, like \"10M\"")
        })?;
        slots.push(Slot {
            from: from.unwrap_or(TimeOfDay::START),
            to: to.unwrap_or(TimeOfDay::END),
            days,
            rate,
        });
    }
    if slots.is_empty() {
        return Err(section.error_at("bwlimit", "an empty list limits nothing: leave it out"));
    }
    Ok(Some(Bwlimit::Timetable(slots)))
}

fn max_delete(section: &mut Section<'_>) -> Result<Option<MaxDelete>, ConfigError> {
    let Some(value) = section.take("max_delete") else {
        return Ok(None);
    };
    match value.get_ref() {
        DeValue::Table(_) => {}
        DeValue::String(text) => {
            return MaxDelete::parse(text)
                .map(Some)
                .map_err(|error| section.error_at("max_delete", error.what));
        }
        other => {
            let count = whole_number(other).ok_or_else(|| {
                section.error_at(
                    "max_delete",
                    "max_delete: write a share like \"50%\", a number, \"unlimited\", or { count, percent, window_s }",
                )
            })?;
            return Ok(Some(MaxDelete {
                count: Some(count),
                percent: None,
                ..MaxDelete::default()
            }));
        }
    }
    let Some(mut table) = section.table("max_delete", "max_delete")? else {
        return Ok(None);
    };
    let percent = match table.number("percent")? {
        None => None,
        Some(number) => Some(
            u8::try_from(number)
                .ok()
                .filter(|&percent| percent <= 100)
                .ok_or_else(|| table.error_at("percent", "percent is not between 0 and 100"))?,
        ),
    };
    let count = table.number("count")?;
    let window = match table.number("window_s")? {
        None => MaxDelete::default().window,
        Some(seconds) => {
            check_range("window_s", seconds, 1, WINDOW_S_MAX)
                .map_err(|error| table.error_at("window_s", error.what))?;
            Duration::from_secs(seconds)
        }
    };
    table.finish()?;
    if (count, percent) == (None, None) {
        return Err(
            table.error("max_delete sets no limit: give count or percent, or write \"unlimited\"")
        );
    }
    Ok(Some(MaxDelete {
        count,
        percent,
        window,
    }))
}

/// A schedule, alone or in a table.
fn full_check(section: &mut Section<'_>) -> Result<Option<FullCheck>, ConfigError> {
    let Some(value) = section.take("full_check") else {
        return Ok(None);
    };
    if let DeValue::String(text) = value.get_ref() {
        let at = Cron::parse(text)
            .map_err(|error| section.error_at("full_check", format!("full_check: {error}")))?;
        return Ok(Some(FullCheck {
            at,
            content: false,
            read_limit: None,
        }));
    }
    let Some(mut table) = section.table("full_check", "full_check")? else {
        return Ok(None);
    };
    let at = table.text("at")?;
    let content = table.flag("content")?.unwrap_or(false);
    let read_limit = rate(&mut table, "read_limit")?;
    table.finish()?;
    let at = at.ok_or_else(|| {
        table.error("full_check has no `at`: write a schedule like \"30 3 * * 0\"")
    })?;
    let at =
        Cron::parse(at).map_err(|error| table.error_at("at", format!("full_check.at: {error}")))?;
    if read_limit.is_some() && !content {
        return Err(table.error_at(
            "read_limit",
            "read_limit has no effect without content = true: only contents are read slowly",
        ));
    }
    Ok(Some(FullCheck {
        at,
        content,
        read_limit,
    }))
}

/// Bytes per second: a number, or a text like "10M".
fn rate(section: &mut Section<'_>, key: &'static str) -> Result<Option<NonZeroU64>, ConfigError> {
    let Some(value) = section.take(key) else {
        return Ok(None);
    };
    let parsed = match value.get_ref() {
        DeValue::String(text) => rate::parse(text),
        other => whole_number(other).ok_or(RateError::Unreadable),
    };
    let parsed = parsed.and_then(|bytes| NonZeroU64::new(bytes).ok_or(RateError::Zero));
    parsed
        .map(Some)
        .map_err(|error| section.error_at(key, format!("{key}: {error}")))
}

/// The filter rules: across keys in this order, within a key as written.
fn rules(section: &mut Section<'_>, base: &Path) -> Result<Rules, ConfigError> {
    let bytes = |text: &str| text.as_bytes().to_vec();
    let mut rules = Rules::default().with_base(base);
    let source: Arc<str> = "configuration".into();
    let mut add = |key, statement: &dyn Fn(&str) -> Option<Statement>| {
        for (line, text) in section.texts(key)? {
            let found = statement(text)
                .filter(|_| !text.is_empty())
                .ok_or_else(|| {
                    let given = text.escape_debug();
                    let mut error =
                        section.error_at(key, format!("{key}: \"{given}\" is not known or empty"));
                    error.line = Some(line);
                    error
                })?;
            rules.push(found, Origin::line(&source, line));
        }
        Ok(())
    };
    add("filter", &|text| Some(Statement::Filter(bytes(text))))?;
    add("include", &|text| Some(Statement::Include(bytes(text))))?;
    add("include_from", &|text| {
        Some(Statement::IncludeFrom(text.into()))
    })?;
    add("exclude", &|text| Some(Statement::Exclude(bytes(text))))?;
    add("exclude_from", &|text| {
        Some(Statement::ExcludeFrom(text.into()))
    })?;
    add("presets", &|text| {
        let found = Preset::NAMES.iter().find(|(name, _)| *name == text);
        found.map(|&(_, preset)| Statement::Preset(preset))
    })?;
    Ok(rules)
}

fn path(
    section: &mut Section<'_>,
    key: &'static str,
    base: &Path,
) -> Result<Option<PathBuf>, ConfigError> {
    match section.text(key)? {
        None => Ok(None),
        Some("") => Err(section.error_at(key, format!("{key} is empty: write a path"))),
        Some(text) if text.contains('\0') => {
            Err(section.error_at(key, format!("{key} has a NUL in it: write a path")))
        }
        Some(text) => Ok(Some(base.join(text))),
    }
}

fn choice<T: Copy>(
    section: &mut Section<'_>,
    key: &'static str,
    choices: &[(&str, T)],
) -> Result<Option<T>, ConfigError> {
    let Some(text) = section.text(key)? else {
        return Ok(None);
    };
    let found = choices.iter().find(|(name, _)| *name == text);
    found.map(|&(_, value)| Some(value)).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        let given = text.escape_debug();
        section.error_at(
            key,
            format!("{key}: \"{given}\" is not one of {}", names.join(", ")),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCESS: &str = "ca = \"ca.pem\"\ncert = \"a.pem\"\nkey = \"a.key\"\n";

    fn read(text: &str) -> Result<Config, String> {
        parse(text, Path::new("/etc/syncd")).map_err(|error| error.to_string())
    }

    fn with(source: &str, target: &str) -> Result<Config, String> {
        read(&format!(
            "[[source]]\npath = \"/data\"\n{source}\n[[source.target]]\nto = \"u@h::m\"\n{ACCESS}{target}\n"
        ))
    }

    #[test]
    fn the_example_is_a_configuration() {
        let text = include_str!("../../../../docs/examples/agent.toml");
        let config = read(text).unwrap();
        assert_eq!(config.sources.len(), 1);
        assert_eq!(config.sources[0].targets.len(), 2);
        assert_eq!(config.sources[0].path, Path::new("/srv/www"));
    }

    #[test]
    fn a_source_needs_little() {
        let config = with("", "").unwrap();
        let source = &config.sources[0];
        assert!(source.delete);
        assert_eq!(source.settle, Duration::from_millis(200));
        assert_eq!(source.hold_max, Duration::from_millis(1_500));
        assert_eq!(source.backend, Backend::Auto);
        assert_eq!(source.max_delete.percent, Some(50));
        let access = &source.targets[0].access;
        assert_eq!(access.ca, Path::new("/etc/syncd/ca.pem"));
        assert_eq!(access.connect_timeout, Duration::from_secs(10));
    }

    #[test]
    fn deletes_are_limited_as_written() {
        let limit = |text: &str| with(text, "").map(|config| config.sources[0].max_delete);
        let window = Duration::from_secs(60);
        for (text, count, percent) in [
            ("max_delete = \"7%\"", None, Some(7)),
            ("max_delete = 1000", Some(1000), None),
            ("max_delete = \"1000\"", Some(1000), None),
            ("max_delete = \"unlimited\"", None, None),
            ("max_delete = { count = 3, percent = 4 }", Some(3), Some(4)),
        ] {
            let wanted = MaxDelete {
                count,
                percent,
                window,
            };
            assert_eq!(limit(text), Ok(wanted), "{text}");
        }
        assert_eq!(
            limit("max_delete = { count = 3, window_s = 5 }").map(|limit| limit.window),
            Ok(Duration::from_secs(5))
        );
        for text in [
            "max_delete = \"101%\"",
            "max_delete = \"many\"",
            "max_delete = -1",
            "max_delete = {}",
            "max_delete = { percent = 101 }",
            "max_delete = { window_s = 0, count = 1 }",
            "max_delete = { counts = 1 }",
        ] {
            assert!(limit(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_unknown_key_is_an_error_with_its_line_and_the_nearest_name() {
        let error = with("setle_ms = 1", "").unwrap_err();
        assert_eq!(
            error,
            "line 3: unknown key `setle_ms` in source; did you mean `settle_ms`?"
        );
        let error = with("", "passwd_file = \"x\"").unwrap_err();
        assert!(error.contains("did you mean `password_file`?"), "{error}");
        let error = read("sources = 1\n").unwrap_err();
        assert!(error.contains("did you mean `source`?"), "{error}");
    }

    #[test]
    fn a_misspelt_key_is_named_before_the_one_that_is_missing() {
        let text = "[[source]]\npath = \"/d\"\n[[source.target]]\nto = \"h::m\"\ncaa = \"x\"\n";
        let error = read(text).unwrap_err();
        assert!(error.contains("did you mean `ca`?"), "{error}");
        let target = "[[source.target]]\nto = \"h::m\"\nca = \"c\"\ncert = \"c\"\nkey = \"k\"\n";
        let error = read(&format!("[[source]]\npth = \"/d\"\n{target}")).unwrap_err();
        assert_eq!(
            error,
            "line 2: unknown key `pth` in source; did you mean `path`?"
        );
        let error = read("[[source]]\npath = \"/d\"\n[[source.target]]\ntoo = \"h::m\"\n");
        let error = error.unwrap_err();
        assert!(error.contains("did you mean `to`?"), "{error}");
    }

    #[test]
    fn values_that_cannot_work_are_refused_with_their_line() {
        for (source, target, line, part) in [
            ("delete = \"yes\"", "", 3, "true or false"),
            ("settle_ms = -1", "", 3, "not negative"),
            ("settle_ms = 70000", "", 1, "not between 0 and 60000"),
            ("settle_ms = 50\nhold_max_ms = 10", "", 1, "below settle_ms"),
            ("backend = \"fanotify\"", "", 3, "auto, notify, inotify"),
            ("exclude = [1]", "", 3, "a list of them"),
            ("exclude = [\n\"a\",\n\"\"]", "", 5, "empty"),
            ("presets = [\"editors\"]", "", 3, "not known"),
            ("", "bwlimit = 0", 9, "nothing would be sent"),
            ("", "bwlimit = \"1X\"", 9, "10M"),
            ("", "bwlimit = []", 9, "limits nothing"),
            ("", "bwlimit = [{ from = \"8\", rate = 1 }]", 9, "08:00"),
            ("", "bwlimit = [{ from = \"08:00\" }]", 9, "no `rate`"),
            (
                "",
                "bwlimit = [{ days = \"often\", rate = 1 }]",
                9,
                "mon-fri",
            ),
            ("full_check = \"daily\"", "", 3, "1 fields"),
            ("full_check = { content = true }", "", 3, "no `at`"),
            (
                "full_check = { at = \"@daily\", read_limit = 1 }",
                "",
                3,
                "no effect",
            ),
            ("", "connect_timeout_ms = 1", 4, "between 100 and 600000"),
            ("", "password_file = \"\"", 9, "empty"),
        ] {
            let error = with(source, target).unwrap_err();
            assert!(error.contains(part), "{error}");
            assert!(error.starts_with(&format!("line {line}: ")), "{error}");
        }
        assert!(with("exclude = []", "").is_ok());
    }

    #[test]
    fn rules_have_an_order_and_lines() {
        let text = "exclude = [\"*.o\",\n \"/tmp/\"]\nfilter = \"- *.log\"\ninclude = [\"keep.o\"]\n\
                    exclude_from = \"list\"\npresets = [\"editor-temp\"]";
        let config = with(text, "").unwrap();
        let mut wanted = Rules::default().with_base(Path::new("/etc/syncd"));
        let source: Arc<str> = "configuration".into();
        for (line, statement) in [
            (5, Statement::Filter(b"- *.log".to_vec())),
            (6, Statement::Include(b"keep.o".to_vec())),
            (3, Statement::Exclude(b"*.o".to_vec())),
            (4, Statement::Exclude(b"/tmp/".to_vec())),
            (7, Statement::ExcludeFrom("list".into())),
            (8, Statement::Preset(Preset::EditorTemp)),
        ] {
            wanted.push(statement, Origin::line(&source, line));
        }
        assert_eq!(config.sources[0].rules, wanted);
    }

    #[test]
    fn what_is_missing_is_named() {
        for (text, part) in [
            ("", "nothing to mirror"),
            ("[[source]]\n", "has no path"),
            ("[[source]]\npath = \"/d\"\n", "has no target"),
            (
                "[[source]]\npath = \"/d\"\n[[source.target]]\n",
                "has no `to`",
            ),
            (
                "[[source]]\npath = \"/d\"\n[[source.target]]\nto = \"h::m\"\n",
                "ca is missing",
            ),
            ("[source]\npath = \"/d\"\n", "[[source]]"),
            ("path = \n", "line 1"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn one_place_has_one_writer() {
        let target = |to: &str| format!("[[source.target]]\nto = \"{to}\"\n{ACCESS}");
        let both = |one: &str, two: &str| {
            read(&format!(
                "[[source]]\npath = \"/a\"\n{}[[source]]\npath = \"/b\"\n{}",
                target(one),
                target(two)
            ))
        };
        assert!(both("h::m", "h::n").is_ok());
        assert!(both("h::m/a", "h::m/b").is_ok());
        let error = both("h::m", "u@h::m").unwrap_err();
        assert!(error.contains("is a target already"), "{error}");
    }

    #[test]
    fn a_password_needs_a_user() {
        let text = format!(
            "[[source]]\npath = \"/d\"\n[[source.target]]\nto = \"h::m\"\n{ACCESS}password_file = \"p\"\n"
        );
        assert!(read(&text).unwrap_err().contains("USER@HOST::MODULE"));
    }
}
