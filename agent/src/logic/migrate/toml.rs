//! A draft as `agent.toml`, with its remarks as comments.

use std::fmt::{self, Write};

use super::draft::{Draft, Remark, Setting, SourceDraft, TargetDraft, Value};

/// Files that only the operator can make; the key, the path and what it is.
const CREDENTIALS: [(&str, &str, &str); 3] = [
    (
        "ca",
        "/etc/syncd/ca.pem",
        "the authority that the receiver's certificate comes from",
    ),
    ("cert", "/etc/syncd/agent.pem", "this agent's certificate"),
    ("key", "/etc/syncd/agent.key", "its private key, mode 0600"),
];

impl fmt::Display for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# agent.toml, made by `syncd-agent migrate {}`: what became of each setting stands above it.\n\
             #   kept             the same happens here\n\
             #   differs          something else happens here, or in another way\n\
             #   no meaning here  nothing to be set\n\
             #   DANGER           look at it before you use this file\n\
             # Then: syncd-agent check --config agent.toml",
            self.program
        )?;
        if !self.remarks.is_empty() {
            writeln!(f)?;
        }
        comments(f, &self.remarks, "")?;
        for source in &self.sources {
            writeln!(f)?;
            write_source(f, source)?;
        }
        Ok(())
    }
}

fn write_source(f: &mut fmt::Formatter<'_>, source: &SourceDraft) -> fmt::Result {
    let mut text = String::new();
    comments(&mut text, &source.remarks, "")?;
    writeln!(text, "[[source]]")?;
    settings(&mut text, &source.settings)?;
    if !source.rules.is_empty() {
        writeln!(text, "filter = [")?;
        for (rule, why) in &source.rules {
            writeln!(text, "    # {why}\n    {},", quoted(rule))?;
        }
        writeln!(text, "]")?;
    }
    for target in &source.targets {
        let mut part = String::new();
        write_target(&mut part, target)?;
        text.push('\n');
        text.push_str(&outcommented(part, source.is_whole() && !target.is_whole()));
    }
    f.write_str(&outcommented(text, !source.is_whole()))
}

fn write_target(text: &mut String, target: &TargetDraft) -> fmt::Result {
    comments(text, &target.remarks, "")?;
    writeln!(text, "[[source.target]]")?;
    settings(text, &target.settings)?;
    writeln!(
        text,
        "# not in the old settings: make these first, there is no way in without"
    )?;
    for (key, path, what) in CREDENTIALS {
        writeln!(text, "{key} = \"{path}\"    # {what}")?;
    }
    Ok(())
}

/// What is not whole stands there as comments, so that the rest can be used.
fn outcommented(text: String, yes: bool) -> String {
    if !yes {
        return text;
    }
    text.lines()
        .map(|line| match line {
            "" => "\n".to_owned(),
            line if line.starts_with('#') => format!("{line}\n"),
            line => format!("#{line}\n"),
        })
        .collect()
}

fn settings(text: &mut String, settings: &[Setting]) -> fmt::Result {
    for setting in settings {
        writeln!(text, "# {}", setting.why)?;
        let value = match &setting.value {
            Value::Text(text) => quoted(text),
            Value::Flag(flag) => flag.to_string(),
            Value::Number(number) => number.to_string(),
        };
        writeln!(text, "{} = {value}", setting.key)?;
    }
    Ok(())
}

fn comments(text: &mut dyn Write, remarks: &[Remark], indent: &str) -> fmt::Result {
    for remark in remarks {
        writeln!(text, "{indent}# {remark}")?;
    }
    Ok(())
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            letter if letter.is_control() => {
                let _ = write!(quoted, "\\U{:08X}", u32::from(letter));
            }
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

impl Draft {
    /// Remarks that somebody has to act on, one a line.
    #[must_use]
    pub fn dangers(&self) -> String {
        let found = self
            .remarks()
            .filter(|remark| remark.verdict == super::Verdict::Danger);
        let lines: Vec<String> = found.map(|remark| format!("{remark}\n")).collect();
        lines.concat()
    }
}
