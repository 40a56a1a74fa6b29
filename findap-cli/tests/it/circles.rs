//! No circles of files inside a crate.
//!
//! A file uses another where a path in its code, be it in a `use` line or not, names something that the other defines; names that
//! re-exported are followed to their definition. These uses form no circle. One use does not count: that of a `mod.rs`, or of the
//! crate's root, by the files below it. A folder is one module; its `mod.rs` defines what the files of the folder share (the
//! arguments of an op, an error) and calls them. Tests do not count: they may look anywhere.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, ItemUse, Lit, Meta, UseTree};

use crate::tidy::{complain_unless_empty, packages};

/// The path to a module or an item as names, without the crate's root.
type Names = Vec<String>;

/// The contents of a module, without its tests.
#[derive(Default)]
struct Module {
    file: PathBuf,
    /// Items defined here.
    items: BTreeSet<String>,
    /// The path of everything that `use` lines bring in, by its name in this module.
    imports: BTreeMap<String, Names>,
    /// Modules that are imported with `*`.
    globs: Vec<Names>,
    /// Every path in the code, as it is written.
    paths: BTreeSet<Names>,
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => {
            let condition = list.tokens.to_string().replace(' ', "");
            let mut words = condition.split(|c: char| !c.is_alphanumeric() && c != '_');
            words.any(|word| word == "test") && !condition.contains("not(test")
        }
        other => other.path().is_ident("test"),
    })
}

impl Module {
    fn import(&mut self, tree: &UseTree, before: &Names) {
        let with = |name: &syn::Ident| [before.clone(), vec![name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.import(&path.tree, &with(&path.ident)),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.import(tree, before)),
            UseTree::Glob(_) => self.globs.push(before.clone()),
            UseTree::Name(name) if name.ident == "self" => {
                self.imports.insert(before.last().cloned().unwrap_or_default(), before.clone());
            }
            UseTree::Name(name) => drop(self.imports.insert(name.ident.to_string(), with(&name.ident))),
            UseTree::Rename(rename) if rename.ident == "self" => {
                self.imports.insert(rename.rename.to_string(), before.clone());
            }
            UseTree::Rename(rename) => drop(self.imports.insert(rename.rename.to_string(), with(&rename.ident))),
        }
    }
}

impl<'a> Visit<'a> for Module {
    fn visit_item(&mut self, item: &'a Item) {
        let (attributes, name) = match item {
            Item::Const(it) => (&it.attrs, Some(&it.ident)),
            Item::Enum(it) => (&it.attrs, Some(&it.ident)),
            Item::Fn(it) => (&it.attrs, Some(&it.sig.ident)),
            Item::Static(it) => (&it.attrs, Some(&it.ident)),
            Item::Struct(it) => (&it.attrs, Some(&it.ident)),
            Item::Trait(it) => (&it.attrs, Some(&it.ident)),
            Item::Type(it) => (&it.attrs, Some(&it.ident)),
            Item::Union(it) => (&it.attrs, Some(&it.ident)),
            Item::Macro(it) => (&it.attrs, it.ident.as_ref()),
            Item::Use(it) => (&it.attrs, None),
            Item::Impl(it) => (&it.attrs, None),
            Item::Mod(_) => return,
            _ => return visit::visit_item(self, item),
        };
        if !is_test(attributes) {
            self.items.extend(name.map(ToString::to_string));
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'a ItemUse) {
        self.import(&item.tree, &Vec::new());
    }

    fn visit_impl_item_fn(&mut self, function: &'a syn::ImplItemFn) {
        if !is_test(&function.attrs) {
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        self.paths.insert(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_vis_restricted(&mut self, _: &'a syn::VisRestricted) {}

    /// Takes the paths from a macro's tokens, because its arguments are not parsed.
    fn visit_macro(&mut self, call: &'a syn::Macro) {
        let text = call.tokens.to_string().replace(" :: ", "::");
        let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        for path in text.split(|c| !is_word(c)).filter(|path| path.contains("::")) {
            self.paths.insert(path.split("::").map(str::to_owned).collect());
        }
        visit::visit_macro(self, call);
    }
}

/// The modules of a crate by their names.
#[derive(Default)]
struct Crate(BTreeMap<Names, Module>);

impl Crate {
    fn read(root: &Path) -> Crate {
        let mut read = Crate::default();
        read.add_file(root, Vec::new(), true);
        read
    }

    fn add_file(&mut self, file: &Path, names: Names, owns_folder: bool) {
        let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let syntax = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let folder = file.parent().expect("a source lies in a folder");
        let below = if owns_folder { folder.to_owned() } else { file.with_extension("") };
        self.add(file, names, &syntax.items, &mut |child, names, crate_| {
            let name = child.ident.to_string();
            let path = child.attrs.iter().find_map(path_attribute);
            let (file, owns_folder) = match path {
                Some(path) => (folder.join(path), false),
                None => match below.join(format!("{name}.rs")) {
                    file if file.exists() => (file, false),
                    _ => (below.join(&name).join("mod.rs"), true),
                },
            };
            crate_.add_file(&file, names, owns_folder);
        });
    }

    /// Adds a module and those inside it; `in_file` adds one that has a file of its own.
    fn add(&mut self, file: &Path, names: Names, items: &[Item], in_file: &mut dyn FnMut(&ItemMod, Names, &mut Crate)) {
        let mut module = Module { file: file.to_owned(), ..Module::default() };
        items.iter().for_each(|item| module.visit_item(item));
        self.0.insert(names.clone(), module);
        for item in items {
            let Item::Mod(child) = item else { continue };
            if is_test(&child.attrs) {
                continue;
            }
            let names = [names.clone(), vec![child.ident.to_string()]].concat();
            match &child.content {
                Some((_, items)) => self.add(file, names, items, in_file),
                None => in_file(child, names, self),
            }
        }
    }

    /// Follows `path` from the module `from` through modules as far as they go: the last module, and the rest of the path. `None` beyond
    /// the root.
    fn walk<'p>(&self, from: &[String], path: &'p [String]) -> Option<(Names, &'p [String])> {
        let (mut at, mut rest) = (from.to_owned(), path);
        while let Some((name, after)) = rest.split_first() {
            match name.as_str() {
                "crate" => at.clear(),
                "self" => {}
                "super" => drop(at.pop()?),
                _ => {
                    let child = [&at[..], std::slice::from_ref(name)].concat();
                    if !self.0.contains_key(&child) {
                        break;
                    }
                    at = child;
                }
            }
            rest = after;
        }
        Some((at, rest))
    }

    /// The module that defines what `path` names in the module `from`; `None` where another crate does, or where `path` names a module.
    /// `tried` has what was looked at before, so that the search ends.
    fn definition(&self, from: &[String], path: &[String], tried: &mut BTreeSet<(Names, Names)>) -> Option<Names> {
        let (at, rest) = self.walk(from, path)?;
        let (name, after) = rest.split_first()?;
        let module = self.0.get(&at)?;
        if module.items.contains(name) {
            return Some(at);
        }
        if !tried.insert((at.clone(), rest.to_owned())) {
            return None;
        }
        if let Some(import) = module.imports.get(name) {
            // `use csv::csv`: the first is the name of another crate.
            let is_foreign = import[0] == *name && !self.0.contains_key(&[&at[..], &import[..1]].concat());
            if is_foreign {
                return None;
            }
            return self.definition(&at, &[&import[..], after].concat(), tried);
        }
        module.globs.iter().find_map(|glob| {
            let (from, left) = self.walk(&at, glob)?;
            left.is_empty().then(|| self.definition(&from, rest, tried))?
        })
    }

    /// The files that each file uses, with the path by which it does.
    fn uses(&self) -> BTreeMap<&Path, BTreeMap<&Path, String>> {
        let mut uses: BTreeMap<&Path, BTreeMap<&Path, String>> = BTreeMap::new();
        for (from, module) in &self.0 {
            for path in module.imports.values().chain(&module.paths) {
                let Some(to) = self.definition(from, path, &mut BTreeSet::new()) else { continue };
                let file = self.0[&to].file.as_path();
                if file != module.file && !from.starts_with(&to) {
                    uses.entry(&module.file).or_default().entry(file).or_insert_with(|| path.join("::"));
                }
            }
        }
        uses
    }

    /// The shortest circle through each file, listed once under the file that comes first in it.
    fn circles(&self) -> Vec<String> {
        let uses = self.uses();
        let mut found = Vec::new();
        for start in uses.keys() {
            let mut before: BTreeMap<&Path, &Path> = BTreeMap::new();
            let mut open = VecDeque::from([*start]);
            while let Some(file) = open.pop_front().filter(|_| !before.contains_key(start)) {
                for next in uses.get(file).into_iter().flat_map(BTreeMap::keys) {
                    if !before.contains_key(next) {
                        before.insert(next, file);
                        open.push_back(next);
                    }
                }
            }
            let mut way = vec![*start];
            while let Some(file) = before.contains_key(start).then(|| before[way[way.len() - 1]]) {
                way.push(file);
                if file == *start {
                    break;
                }
            }
            if way.len() > 1 && way.iter().min() == Some(start) {
                let steps = way.windows(2).rev().map(|step| {
                    format!("{} uses {} of {}", step[1].display(), uses[step[1]][step[0]], step[0].display())
                });
                found.push(steps.collect::<Vec<_>>().join(", "));
            }
        }
        found
    }
}

fn path_attribute(attribute: &Attribute) -> Option<String> {
    let Meta::NameValue(pair) = &attribute.meta else { return None };
    match &pair.value {
        syn::Expr::Lit(value) if pair.path.is_ident("path") => match &value.lit {
            Lit::Str(path) => Some(path.value()),
            _ => None,
        },
        _ => None,
    }
}

#[test]
fn files_inside_a_crate_form_no_circles() {
    let (mut complaints, mut num_uses) = (Vec::new(), 0);
    for package in packages() {
        let src = package.manifest_path.parent().expect("a manifest has a folder").join("src");
        let root = ["lib.rs", "main.rs"].map(|name| src.join(name)).into_iter().find(|root| root.exists());
        let read = Crate::read(root.expect("a crate has a root").as_std_path());
        num_uses += read.uses().values().map(BTreeMap::len).sum::<usize>();
        let folder = format!("{src}/");
        complaints
            .extend(read.circles().iter().map(|circle| format!("  {}: {}", package.name, circle.replace(&folder, ""))));
    }
    assert!(num_uses > 500, "{num_uses} uses: were the sources read?");
    complain_unless_empty("files that use each other in a circle", &complaints);
}

#[test]
fn circles_are_found_and_other_uses_are_not_circles() {
    let circles = |files: &[(&str, &str)]| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, text).expect("a file");
        }
        let found = Crate::read(&folder.path().join("lib.rs")).circles();
        found.iter().map(|circle| circle.replace(&format!("{}/", folder.path().display()), "")).collect::<Vec<_>>()
    };
    let root = ("lib.rs", "mod a;\nmod b;\nmod c;\npub use c::C;\npub struct Root;");
    let none: [&str; 0] = [];

    // Through a group, a name that the root exports, and a path outside of any `use` line.
    let a = ("a.rs", "use std::fmt;\nuse crate::{b::{self, B as X}};\npub struct A;");
    let b = ("b.rs", "use super::C;\npub struct B;\nfn f() { crate::C; }");
    let c = ("c.rs", "pub struct C;\nfn g() { let _ = crate::a::A; }");
    assert_eq!(
        circles(&[root, a, b, c]),
        ["a.rs uses crate::b::B of b.rs, b.rs uses super::C of c.rs, c.rs uses crate::a::A of a.rs"]
    );
    let in_a_macro = ("c.rs", "pub struct C;\nfn g() { assert_eq!(crate::a::A, 1); }");
    assert_eq!(circles(&[root, a, b, in_a_macro]).len(), 1);
    let through_a_module = ("c.rs", "use crate::a;\npub struct C;\nfn g() -> a::A { todo!() }");
    assert_eq!(circles(&[root, a, b, through_a_module]).len(), 1);

    // Comments, tests, and what the root itself defines.
    let quiet = ("c.rs", "// crate::a::A\npub struct C(crate::Root);\n#[cfg(test)]\nmod tests { use crate::a::A; }");
    assert_eq!(circles(&[root, a, b, quiet]), none);
    let module_alone = ("c.rs", "use crate::a;\npub struct C;");
    assert_eq!(circles(&[root, a, b, module_alone]), none);

    // A folder is one module: its mod.rs calls a file that uses what it defines.
    let family = ("a/mod.rs", "mod inner;\nuse inner::f;\npub struct A;");
    let inner = ("a/inner.rs", "use super::A;\nuse crate::b::B;\npub fn f(_: A) {}");
    assert_eq!(circles(&[root, family, inner, ("b.rs", "pub struct B;"), quiet]), none);
    // But a file outside of the folder closes a circle with it.
    let outside = ("b.rs", "pub struct B(crate::a::A);");
    let found = circles(&[root, family, inner, outside, quiet]);
    assert_eq!(
        found,
        [
            "a/inner.rs uses crate::b::B of b.rs, b.rs uses crate::a::A of a/mod.rs, a/mod.rs uses inner::f of a/inner.rs"
        ]
    );
}
