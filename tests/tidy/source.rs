//! One Rust file as the rules see it: its code without comments and texts, its names, its functions.

use std::{fs, path::Path};

/// A source file.
pub(crate) struct Source {
    /// Relative to the workspace's root, with `/`.
    pub(crate) path: String,
    /// The text, with everything in comments, strings and character literals blanked. Lines stay where they were.
    pub(crate) code: String,
}

/// A function and the lines from its `fn` to its closing brace.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    pub(crate) lines: usize,
}

/// A word of the code: an identifier or one other character.
type Token<'a> = (usize, &'a str);

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            code: blank(text),
        }
    }

    /// Every Rust file below the workspace's root, but what is generated or hidden.
    pub(crate) fn all(root: &Path) -> Vec<Self> {
        let mut sources = Vec::new();
        collect(root, root, &mut sources);
        sources.sort_by(|a, b| a.path.cmp(&b.path));
        sources
    }

    pub(crate) fn lines(&self) -> usize {
        self.code.lines().count()
    }

    /// Whether a folder or the file itself is called that: `store` for `leases/store.rs` and for all of `leases/store/`.
    pub(crate) fn is_within(&self, name: &str) -> bool {
        self.path
            .split('/')
            .any(|part| part.strip_suffix(".rs").unwrap_or(part) == name)
    }

    /// Whether the code names a path that starts so: `v1::`, `std::env`. A path that goes on to the left is another one.
    pub(crate) fn names(&self, path: &str) -> bool {
        self.code.match_indices(path).any(|(at, _)| {
            let before = self.code[..at].chars().next_back();
            let after = self.code[at + path.len()..].chars().next();
            let whole = !path.ends_with(is_word) || !after.is_some_and(is_word);
            whole && !before.is_some_and(is_word)
        })
    }

    /// Whether the code reaches into a module: `module::x` anywhere, or the name in a `use`.
    pub(crate) fn reaches(&self, module: &str) -> bool {
        if self.names(&format!("{module}::")) {
            return true;
        }
        let mut within_use = false;
        self.tokens().iter().any(|(_, token)| {
            match *token {
                "use" => within_use = true,
                ";" => within_use = false,
                _ => {}
            }
            within_use && *token == module
        })
    }

    /// The functions with a body, nested ones too.
    pub(crate) fn functions(&self) -> Vec<Function> {
        let tokens = self.tokens();
        let mut found = Vec::new();
        for (index, (line, token)) in tokens.iter().enumerate() {
            let Some((_, name)) = tokens.get(index + 1) else {
                continue;
            };
            if *token != "fn" || !name.starts_with(is_word) {
                continue;
            }
            if let Some(end) = body_end(&tokens[index + 1..]) {
                found.push(Function {
                    name: (*name).to_owned(),
                    line: *line,
                    lines: end - line + 1,
                });
            }
        }
        found
    }

    fn tokens(&self) -> Vec<Token<'_>> {
        let mut tokens = Vec::new();
        for (number, line) in self.code.lines().enumerate() {
            let mut rest = line.trim_start();
            while let Some(first) = rest.chars().next() {
                let length = if is_word(first) {
                    rest.find(|c| !is_word(c)).unwrap_or(rest.len())
                } else {
                    first.len_utf8()
                };
                tokens.push((number + 1, &rest[..length]));
                rest = rest[length..].trim_start();
            }
        }
        tokens
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The line on which the body of a function ends; none for a declaration without a body.
fn body_end(tokens: &[Token<'_>]) -> Option<usize> {
    let (mut round, mut curly) = (0_usize, 0_usize);
    for (line, token) in tokens {
        match *token {
            "(" | "[" => round += 1,
            ")" | "]" => round = round.saturating_sub(1),
            ";" if round == 0 && curly == 0 => return None,
            "{" => curly += 1,
            "}" => {
                curly = curly.saturating_sub(1);
                if curly == 0 {
                    return Some(*line);
                }
            }
            _ => {}
        }
    }
    None
}

fn collect(root: &Path, folder: &Path, sources: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with('.') || name == "target" {
            continue;
        }
        if path.is_dir() {
            collect(root, &path, sources);
        } else if name.ends_with(".rs") {
            let shown = path.strip_prefix(root).unwrap().to_string_lossy();
            sources.push(Source::new(&shown, &fs::read_to_string(&path).unwrap()));
        }
    }
}

/// Replaces comments, strings and character literals by spaces, line by line.
fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = literal_len(rest, code.chars().next_back());
        if length == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        code.extend(
            rest[..length]
                .chars()
                .map(|c| if c == '\n' { c } else { ' ' }),
        );
        rest = &rest[length..];
    }
    code
}

/// How many bytes of a comment or literal start here: none when code does.
fn literal_len(rest: &str, before: Option<char>) -> usize {
    let to = |end: Option<usize>| end.unwrap_or(rest.len());
    if rest.starts_with("//") {
        return to(rest.find('\n'));
    }
    if rest.starts_with("/*") {
        return to(rest.find("*/").map(|end| end + 2));
    }
    if !before.is_some_and(is_word) {
        let raw = rest.strip_prefix('b').unwrap_or(rest);
        if let Some(hashes) = raw.strip_prefix('r').and_then(|r| r.find('"'))
            && raw[1..=hashes].chars().all(|c| c == '#')
        {
            let start = rest.len() - raw.len() + hashes + 2;
            let close = format!("\"{}", "#".repeat(hashes));
            return to(rest[start..]
                .find(&close)
                .map(|end| start + end + close.len()));
        }
    }
    if rest.starts_with('"') {
        return quoted_len(rest, '"');
    }
    // A lifetime has no closing quote right after its first character.
    let mut chars = rest.chars();
    if chars.next() == Some('\'') {
        let first = chars.next();
        if first == Some('\\') || (first.is_some() && chars.next() == Some('\'')) {
            return quoted_len(rest, '\'');
        }
    }
    0
}

fn quoted_len(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}
