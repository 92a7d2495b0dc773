//! The direction of the source: who may use whom.
//!
//! Everywhere in `src`, the `mod` lines of a file stand top to bottom: a module may use the modules
//! declared below it and none above. `src/lib.rs` declares the layers of the whole crate that way. And
//! no files use each other in a circle, where a use counts towards the file that *defines* the name,
//! whatever re-exports it passes through.
//!
//! Every path that begins with `crate`, `super` or `self` counts, in `use` lines, in code and in the
//! arguments of macros. Code that is compiled for tests only does not.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

/// A module: its path from the crate's root, such as `["models", "catalog"]`.
type ModulePath = Vec<String>;

/// What one module declares.
#[derive(Default)]
struct Module {
    /// The file it is written in, relative to `src`.
    file: PathBuf,
    /// Its child modules, in the order of their declaration.
    children: Vec<String>,
    /// Names of the items it defines.
    items: BTreeSet<String>,
    /// What `use` brings in: a name, and the path it stands for.
    imports: BTreeMap<String, ModulePath>,
    /// Paths of glob imports.
    globs: Vec<ModulePath>,
    /// Paths that its code uses, as written.
    paths: BTreeSet<ModulePath>,
}

/// The crate as its files declare it.
struct Crate {
    modules: HashMap<ModulePath, Module>,
    /// Exported macros, which live at the crate's root, and the file that defines each.
    macros: HashMap<String, PathBuf>,
}

/// One file uses a name of another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Arrow {
    from: PathBuf,
    to: PathBuf,
    /// The path as written.
    name: String,
}

#[test]
fn modules_use_only_what_is_declared_below_them() {
    let code = Crate::read();
    let mut wrong = BTreeSet::new();
    for (path, module) in &code.modules {
        for used in &module.paths {
            let Some(target) = code.resolve(path, used) else { continue };
            let common = path.iter().zip(&target).take_while(|(a, b)| a == b).count();
            let (Some(mine), Some(theirs)) = (path.get(common), target.get(common)) else { continue };
            let siblings = &code.modules[&path[..common].to_vec()].children;
            let place = |name: &String| siblings.iter().position(|child| child == name);
            if place(theirs) < place(mine) {
                wrong.insert(format!(
                    "{} uses {}, but {} declares `{theirs}` above `{mine}`",
                    module.file.display(),
                    used.join("::"),
                    code.modules[&path[..common].to_vec()].file.display(),
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} arrows point up:\n{}", wrong.len(), Vec::from_iter(wrong).join("\n"));
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let arrows = Crate::read().arrows();
    let circles = circles(&arrows);
    let described: Vec<_> = circles.iter().map(|circle| describe(circle, &arrows)).collect();
    assert!(circles.is_empty(), "{} circles of files:\n{}", circles.len(), described.join("\n"));
}

#[test]
fn every_source_file_is_a_module_that_was_read() {
    let code = Crate::read();
    let read: BTreeSet<_> = code.modules.values().map(|module| module.file.clone()).collect();
    // The binary's file uses the library from outside; tests are no part of the crate's structure.
    let tests = code.test_files();
    let is_test =
        |file: &Path| tests.iter().any(|test| file == test || file.starts_with(test.with_extension("")));
    let is_apart = |file: &Path| file == Path::new("main.rs") || is_test(file);
    let unread: Vec<_> = source_files().into_iter().filter(|f| !read.contains(f) && !is_apart(f)).collect();
    assert!(unread.is_empty(), "no module declares {unread:?}");
    assert!(code.arrows().len() > 300, "so few arrows mean that the paths were not found");
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn source_files() -> Vec<PathBuf> {
    let root = source();
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder of the source") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path.strip_prefix(&root).expect("a path below src").to_owned());
            }
        }
    }
    found
}

impl Crate {
    fn read() -> Self {
        let mut code = Self { modules: HashMap::new(), macros: HashMap::new() };
        code.read_file(Vec::new(), PathBuf::from("lib.rs"));
        code
    }

    fn read_file(&mut self, path: ModulePath, file: PathBuf) {
        let text = fs::read_to_string(source().join(&file)).expect("a file of the source");
        let mut module = Module { file: file.clone(), ..Module::default() };
        let tokens = without_tests(&tokens_of(&text));
        let mut depth = 0;
        // The depth at which each module that is written within this file begins.
        let mut inner: Vec<i32> = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            let next = |ahead: usize| tokens.get(at + ahead).map_or("", String::as_str);
            match (tokens[at].as_str(), depth) {
                ("{", _) => depth += 1,
                ("}", _) => {
                    depth -= 1;
                    inner.pop_if(|begin| *begin == depth);
                }
                ("mod", _) if next(2) == "{" => {
                    module.items.insert(next(1).to_owned());
                    inner.push(depth);
                }
                ("mod", 0) if next(2) == ";" => module.children.push(next(1).to_owned()),
                // `use<'a>` says what a type captures.
                ("use", _) if next(1) != "<" => {
                    let end =
                        at + tokens[at..].iter().position(|token| token == ";").expect("a `use` ends in `;`");
                    let tree = &tokens[at + 1..end];
                    if inner.is_empty() {
                        module.take_use(&mut Vec::new(), tree);
                    } else {
                        let mut scope = Module::default();
                        scope.take_use(&mut Vec::new(), tree);
                        let paths = scope.paths.iter().filter_map(|path| seen_from_file(path, inner.len()));
                        module.paths.extend(paths);
                    }
                    at = end;
                }
                ("macro_rules", 0) => {
                    self.macros.insert(next(2).to_owned(), file.clone());
                }
                ("fn" | "struct" | "enum" | "trait" | "type" | "const" | "static", 0) => {
                    module.items.insert(next(1).to_owned());
                }
                ("pub", _) if next(1) == "(" => at += 3,
                ("crate" | "super" | "self", _) if next(1) == "::" => {
                    let segments =
                        tokens[at + 1..].chunks(2).take_while(|two| two[0] == "::" && is_name(two.get(1)));
                    let segments: Vec<_> = segments.map(|two| two[1].clone()).collect();
                    let path = [vec![tokens[at].clone()], segments].concat();
                    at += 2 * (path.len() - 1);
                    module.paths.extend(seen_from_file(&path, inner.len()));
                }
                _ => {}
            }
            at += 1;
        }
        for name in module.children.clone() {
            let mut child = path.clone();
            child.push(name.clone());
            self.read_file(child, file_of_child(&file, &name));
        }
        self.modules.insert(path, module);
    }

    /// The files of modules for tests; what lies below such a file is for tests too.
    fn test_files(&self) -> Vec<PathBuf> {
        let mark = CFG_TEST.map(str::to_owned);
        let mut files = Vec::new();
        for module in self.modules.values() {
            let tokens =
                tokens_of(&fs::read_to_string(source().join(&module.file)).expect("a file of the source"));
            let marks = (0..tokens.len()).filter(|&at| tokens[at..].starts_with(&mark));
            for item in marks.map(|at| &tokens[at..at + item_length(&tokens[at..])]) {
                if let [.., keyword, name, _] = item
                    && keyword == "mod"
                {
                    files.push(file_of_child(&module.file, name));
                }
            }
        }
        files
    }

    /// The module or, with its name, the item that a path leads to. `None` for what is not of this crate.
    fn resolve(&self, from: &ModulePath, path: &ModulePath) -> Option<ModulePath> {
        let (mut at, rest) = match path[0].as_str() {
            "crate" => (Vec::new(), &path[1..]),
            "self" => (from.clone(), &path[1..]),
            "super" => {
                let up = path.iter().take_while(|segment| *segment == "super").count();
                (from[..from.len().checked_sub(up)?].to_vec(), &path[up..])
            }
            _ => return None,
        };
        for (index, name) in rest.iter().enumerate() {
            let module = self.modules.get(&at)?;
            if module.children.contains(name) {
                at.push(name.clone());
            } else if module.items.contains(name) || self.is_macro(&at, name) {
                return Some(at);
            } else if let Some(import) = module.imports.get(name) {
                let mut next = self.absolute(&at, import);
                next.extend_from_slice(&rest[index + 1..]);
                return (next != *path).then(|| self.resolve(&at, &next))?;
            } else {
                return module.globs.iter().find_map(|glob| {
                    let mut next = self.absolute(&at, glob);
                    next.extend_from_slice(&rest[index..]);
                    self.resolve(&at, &next)
                });
            }
        }
        Some(at)
    }

    fn is_macro(&self, at: &ModulePath, name: &str) -> bool {
        at.is_empty() && self.macros.contains_key(name)
    }

    /// A path of a `use` line may begin with a child's name.
    fn absolute(&self, at: &ModulePath, path: &ModulePath) -> ModulePath {
        if self.modules[at].children.contains(&path[0]) {
            return std::iter::once("self".to_owned()).chain(path.iter().cloned()).collect();
        }
        path.clone()
    }

    fn arrows(&self) -> BTreeSet<Arrow> {
        let mut arrows = BTreeSet::new();
        for (path, module) in &self.modules {
            for used in &module.paths {
                let Some(target) = self.resolve(path, used) else { continue };
                let is_macro = target.is_empty() && used.last().is_some_and(|n| self.macros.contains_key(n));
                let to = if is_macro {
                    &self.macros[used.last().expect("a path has a name")]
                } else {
                    &self.modules[&target].file
                };
                if *to != module.file {
                    arrows.insert(Arrow { from: module.file.clone(), to: to.clone(), name: used.join("::") });
                }
            }
        }
        arrows
    }
}

impl Module {
    /// Takes the tree of a `use` line, as tokens.
    fn take_use(&mut self, prefix: &mut ModulePath, tree: &[String]) {
        let length = prefix.len();
        let mut rest = tree;
        loop {
            match rest {
                [name, colons, tail @ ..] if colons == "::" => {
                    prefix.push(name.clone());
                    rest = tail;
                }
                [brace, group @ .., _] if brace == "{" => {
                    for tree in split_at_commas(group) {
                        self.take_use(prefix, tree);
                    }
                    break;
                }
                [star] if star == "*" => {
                    self.globs.push(prefix.clone());
                    self.use_path(prefix.clone());
                    break;
                }
                [name, alias @ ..] => {
                    if name != "self" || prefix.is_empty() {
                        prefix.push(name.clone());
                    }
                    let alias = alias.get(1).or(prefix.last()).cloned().unwrap_or_default();
                    self.imports.insert(alias, prefix.clone());
                    self.use_path(prefix.clone());
                    break;
                }
                [] => break,
            }
        }
        prefix.truncate(length);
    }

    fn use_path(&mut self, path: ModulePath) {
        let is_relative = !matches!(path[0].as_str(), "crate" | "super" | "self");
        // `use child::Name` means `use self::child::Name`; all others are of another crate.
        self.paths.insert(if is_relative { [vec!["self".to_owned()], path].concat() } else { path });
    }
}

/// A path as it reads from the file's own module, for code in a module within that file: `depth` modules
/// deep. `None` where it stays within the file.
fn seen_from_file(path: &[String], depth: usize) -> Option<ModulePath> {
    let up = path.iter().take_while(|segment| *segment == "super").count();
    match path[0].as_str() {
        "super" if up < depth => None,
        "super" if up == depth => Some([vec!["self".to_owned()], path[up..].to_vec()].concat()),
        "super" => Some(path[depth..].to_vec()),
        "self" if depth > 0 => None,
        _ => Some(path.to_vec()),
    }
}

/// The trees of a group, which may hold groups in turn.
fn split_at_commas(tokens: &[String]) -> Vec<&[String]> {
    let mut depth = 0;
    let is_comma = |token: &String| {
        depth += i32::from(token == "{") - i32::from(token == "}");
        depth == 0 && token == ","
    };
    tokens.split(is_comma).filter(|tree| !tree.is_empty()).collect()
}

/// The marks of an item that is compiled for tests only.
const CFG_TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];

/// The tokens of a Rust file: names, `::`, and single marks. Comments and literals are left out.
fn tokens_of(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(length) = literal(rest) {
            length
        } else if c.is_alphanumeric() || c == '_' {
            let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            tokens.push(rest[..length].to_owned());
            length
        } else if rest.starts_with("::") {
            tokens.push("::".to_owned());
            2
        } else {
            if !c.is_whitespace() {
                tokens.push(c.to_string());
            }
            c.len_utf8()
        };
        rest = &rest[length..];
    }
    tokens
}

/// How long the string or character is that the text begins with, in bytes. `None` where it begins with
/// neither.
fn literal(text: &str) -> Option<usize> {
    let bare = text.strip_prefix(['b', 'c']).unwrap_or(text);
    let prefix = text.len() - bare.len();
    if let Some(raw) = bare.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        let body = raw[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        return Some(prefix + 1 + hashes + 1 + body.find(&end)? + end.len());
    }
    let mut characters = bare.char_indices().peekable();
    match characters.next()?.1 {
        '"' => {
            let mut is_escaped = false;
            let end = characters.find(|&(_, c)| {
                let is_end = c == '"' && !is_escaped;
                is_escaped = c == '\\' && !is_escaped;
                is_end
            })?;
            Some(prefix + end.0 + 1)
        }
        '\'' if bare[1..].starts_with('\\') => Some(prefix + 3 + bare[3..].find('\'')? + 1),
        // A lifetime, such as `'a`, has no second quote.
        '\'' => {
            let (at, c) = characters.nth(1)?;
            (c == '\'').then_some(prefix + at + 1)
        }
        _ => None,
    }
}

/// The tokens without the items that are compiled for tests only.
fn without_tests(tokens: &[String]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at..].starts_with(&CFG_TEST.map(str::to_owned)) {
            at += item_length(&tokens[at..]);
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

/// How many tokens an item has, with its attributes: to its `;`, or to the end of its braces.
fn item_length(tokens: &[String]) -> usize {
    let is_use = tokens.iter().take(CFG_TEST.len() + 5).any(|token| token == "use");
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate() {
        match token.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            _ => {}
        }
        let is_end = token == ";" || (token == "}" && !is_use);
        if depth == 0 && is_end {
            return at + 1;
        }
    }
    tokens.len()
}

fn is_name(token: Option<&String>) -> bool {
    token.is_some_and(|token| token.starts_with(|c: char| c.is_alphabetic() || c == '_'))
}

/// The file of the module that `file` declares as `name`.
fn file_of_child(file: &Path, name: &str) -> PathBuf {
    let folder = if file == Path::new("lib.rs") { PathBuf::new() } else { file.with_extension("") };
    folder.join(format!("{name}.rs"))
}

/// Groups of files that can reach each other.
fn circles(arrows: &BTreeSet<Arrow>) -> Vec<BTreeSet<PathBuf>> {
    let mut next: HashMap<&Path, BTreeSet<&Path>> = HashMap::new();
    for arrow in arrows {
        next.entry(&arrow.from).or_default().insert(&arrow.to);
    }
    let reach = |start: &Path| {
        let mut met = BTreeSet::new();
        let mut left: Vec<&Path> = next.get(start).into_iter().flatten().copied().collect();
        while let Some(file) = left.pop() {
            if met.insert(file) {
                left.extend(next.get(file).into_iter().flatten());
            }
        }
        met
    };
    let reached: BTreeMap<&Path, BTreeSet<&Path>> = next.keys().map(|file| (*file, reach(file))).collect();
    let mut found = BTreeSet::new();
    for (file, files) in &reached {
        if files.contains(file) {
            let returns = |other: &&&Path| reached.get(**other).is_some_and(|back| back.contains(file));
            found.insert(files.iter().filter(returns).map(|file| file.to_path_buf()).collect());
        }
    }
    found.into_iter().collect()
}

fn describe(circle: &BTreeSet<PathBuf>, arrows: &BTreeSet<Arrow>) -> String {
    let inside = |arrow: &&Arrow| circle.contains(&arrow.from) && circle.contains(&arrow.to);
    let line =
        |arrow: &Arrow| format!("  {} -> {}: {}", arrow.from.display(), arrow.to.display(), arrow.name);
    format!("{} files:\n{}", circle.len(), Vec::from_iter(arrows.iter().filter(inside).map(line)).join("\n"))
}
