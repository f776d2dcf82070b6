//! Whether two languages of a document have the same outline: headings, lists and tables in the same
//! order, the same commands, the same links. The words between them are left to people.

/// A part of the outline that has no words.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    /// A heading of this level.
    Heading(usize),
    /// An item of a list.
    Item,
    /// A row of a table, with its number of cells.
    Row(usize),
    /// A fence of code, or a line within, without its comment.
    Code(String),
}

/// Where the outlines differ first, and links that only one of them has.
pub(crate) fn differences(original: &str, translation: &str) -> Vec<String> {
    let (here, there) = (outline(original), outline(translation));
    let first = (0..here.len().max(there.len())).find(|&at| here.get(at) != there.get(at));
    let mut problems: Vec<String> = first
        .map(|at| {
            format!(
                "part {at}: {:?}, translated as {:?}",
                here.get(at),
                there.get(at)
            )
        })
        .into_iter()
        .collect();
    let (here, there) = (targets(original), targets(translation));
    let lost = here.iter().filter(|target| !there.contains(target));
    problems.extend(lost.map(|target| format!("{target}: not in the translation")));
    let more = there.iter().filter(|target| !here.contains(target));
    problems.extend(more.map(|target| format!("{target}: only in the translation")));
    problems
}

fn outline(text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut in_fence = false;
    for line in text.lines() {
        let fence = line.starts_with("```");
        in_fence ^= fence;
        if fence || in_fence {
            parts.push(Part::Code(without_comment(line).to_owned()));
        } else if line.starts_with('#') {
            parts.push(Part::Heading(
                line.chars().take_while(|&c| c == '#').count(),
            ));
        } else if line.starts_with("- ") {
            parts.push(Part::Item);
        } else if line.starts_with('|') {
            parts.push(Part::Row(line.matches('|').count()));
        }
    }
    parts
}

fn without_comment(line: &str) -> &str {
    let end = match line.strip_prefix('#') {
        Some(_) => 1,
        None => line.find(" #").unwrap_or(line.len()),
    };
    line[..end].trim_end()
}

/// What links lead to, sorted; those within the document and to its other language aside.
fn targets(text: &str) -> Vec<&str> {
    let links = text.split("](").skip(1);
    let targets = links.filter_map(|rest| rest.split(')').next());
    let mut targets: Vec<&str> = targets
        .filter(|target| !target.starts_with('#') && !target.starts_with("README"))
        .collect();
    targets.sort_unstable();
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGINAL: &str = "# One\n[other](README.zh.md) text [a](a.md)\n\n## Two\n```sh\nrun it   # why\n```\n- item\n| a | b |\n";

    #[test]
    fn other_words_are_in_step() {
        let translation =
            "# 一\n[a](a.md) 文字\n\n## 二\n```sh\nrun it   # 为何\n```\n- 项\n| 甲 | 乙 |\n";
        assert_eq!(differences(ORIGINAL, translation), Vec::<String>::new());
    }

    #[test]
    fn what_was_changed_in_one_only_is_reported() {
        for (from, to) in [
            ("## Two", "### Two"),
            ("run it", "run that"),
            ("| a | b |", "| a |"),
            ("- item\n", ""),
            ("a.md", "b.md"),
        ] {
            let found = differences(ORIGINAL, &ORIGINAL.replace(from, to));
            assert!(!found.is_empty(), "{from} -> {to}");
        }
        assert_eq!(
            differences(ORIGINAL, &format!("{ORIGINAL}# More\n")).len(),
            1
        );
    }
}
