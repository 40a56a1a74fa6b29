//! Tasks by name: the built-in ones and those of a folder.
//!
//! A selection is a list of names, globs (`mmlu*`) and groups. Groups begin with `@`: `@all`, `@general`, `@finance`,
//! `@concept`, `@task`, `@reasoning`, `@chat`, `@similar`, `@novel`, a domain with a capability (`@finance.concept`), and
//! what task files list under `groups` (`@world`, `@real`, `@paper`, `@paper.similar`).

use std::collections::BTreeSet;
use std::path::Path;

use findap_data::spelling::nearest;

use crate::error::EvalError;
use crate::task::Task;

mod builtin;

/// Tasks by name.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    tasks: Vec<Task>,
}

impl Registry {
    /// The built-in tasks.
    ///
    /// # Errors
    /// Never for a released version: a test parses every built-in task.
    pub fn builtin() -> Result<Self, EvalError> {
        let mut registry = Self::default();
        for (file, text) in builtin::FILES {
            registry.add(file, Task::parse(file, text)?)?;
        }
        Ok(registry)
    }

    /// Adds every `*.toml` of a folder, in order of their names. A task may not have the name of another one.
    ///
    /// # Errors
    /// [`EvalError::Io`], [`EvalError::TaskSyntax`], [`EvalError::TaskInvalid`].
    pub fn add_folder(&mut self, folder: &Path) -> Result<(), EvalError> {
        let entries = std::fs::read_dir(folder).map_err(EvalError::io(folder))?;
        let mut paths: Vec<_> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        paths.sort();
        for path in paths {
            let text = std::fs::read_to_string(&path).map_err(EvalError::io(path.as_path()))?;
            let file = path.display().to_string();
            self.add(&file, Task::parse(&file, &text)?)?;
        }
        Ok(())
    }

    fn add(&mut self, file: &str, task: Task) -> Result<(), EvalError> {
        if self.tasks.iter().any(|other| other.name == task.name) {
            let problem = "another task has this name".to_owned();
            return Err(EvalError::TaskInvalid { file: file.to_owned(), task: task.name, field: "name", problem });
        }
        self.tasks.push(task);
        Ok(())
    }

    /// All tasks.
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// The groups that have a task, without `@`.
    pub fn groups(&self) -> BTreeSet<String> {
        self.tasks.iter().flat_map(groups_of).collect()
    }

    /// The tasks of a selection: each once, in the order first asked for.
    ///
    /// # Errors
    /// [`EvalError::UnknownTask`] for a name, glob or group that selects nothing, with the nearest known one.
    pub fn select<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<Vec<Task>, EvalError> {
        let mut selected: Vec<Task> = Vec::new();
        for name in names.into_iter().map(str::trim).filter(|name| !name.is_empty()) {
            let mut found = 0;
            for task in self.tasks.iter().filter(|task| matches(task, name)) {
                found += 1;
                if !selected.iter().any(|other| other.name == task.name) {
                    selected.push(task.clone());
                }
            }
            if found == 0 {
                let groups: Vec<String> = self.groups().into_iter().map(|group| format!("@{group}")).collect();
                let known = self.tasks.iter().map(|task| task.name.as_str()).chain(groups.iter().map(String::as_str));
                return Err(EvalError::UnknownTask { name: name.to_owned(), nearest: nearest(name, known) });
            }
        }
        Ok(selected)
    }

    /// The tasks of a selection that can be run, and those that cannot, which groups and patterns leave out.
    ///
    /// # Errors
    /// As [`select`](Self::select); [`EvalError::TaskRefused`] for such a task by its own name.
    pub fn select_runnable<'a>(
        &self,
        names: impl IntoIterator<Item = &'a str> + Clone,
        has_judge: bool,
    ) -> Result<(Vec<Task>, Vec<EvalError>), EvalError> {
        let (mut runnable, mut left_out) = (Vec::new(), Vec::new());
        for task in self.select(names.clone())? {
            match task.refuse(has_judge) {
                Ok(()) => runnable.push(task),
                Err(refusal) if names.clone().into_iter().any(|name| name.trim() == task.name) => return Err(refusal),
                Err(refusal) => left_out.push(refusal),
            }
        }
        Ok((runnable, left_out))
    }
}

fn matches(task: &Task, name: &str) -> bool {
    match name.strip_prefix('@') {
        Some(group) => groups_of(task).iter().any(|own| own == group),
        None => glob(name.as_bytes(), task.name.as_bytes()),
    }
}

fn groups_of(task: &Task) -> Vec<String> {
    let (domain, capability) = (task.domain.name(), task.capability.name());
    let similarity = task.similarity.name();
    let own = task.groups.iter().cloned();
    let implied = ["all", domain, capability, similarity].map(str::to_owned);
    own.chain(implied).chain([format!("{domain}.{capability}")]).collect()
}

/// Whether a name matches a pattern in which `*` stands for any characters and `?` for one.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => (0..=name.len()).any(|skipped| glob(rest, &name[skipped..])),
        (Some((b'?', rest)), Some((_, name))) => glob(rest, name),
        (Some((wanted, rest)), Some((found, name))) => wanted == found && glob(rest, name),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(selection: &[&str]) -> Vec<String> {
        let tasks = Registry::builtin().expect("built-in tasks parse").select(selection.iter().copied());
        tasks.expect("known names").into_iter().map(|task| task.name).collect()
    }

    #[test]
    fn built_in_tasks_parse_and_say_where_they_come_from() {
        let registry = Registry::builtin().expect("built-in tasks parse");
        assert_eq!(registry.tasks().len(), builtin::FILES.len());
        for (task, (file, _)) in registry.tasks().iter().zip(builtin::FILES) {
            assert!(file.ends_with(&format!("{}.toml", task.name)), "{file} holds {}", task.name);
            assert!(!task.license.is_empty() && !task.source.is_empty(), "{file}");
        }
    }

    #[test]
    fn every_task_file_is_built_in() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tasks");
        let mut found = BTreeSet::new();
        for group in std::fs::read_dir(&folder).expect("the tasks folder").filter_map(Result::ok) {
            for file in std::fs::read_dir(group.path()).expect("a folder of tasks").filter_map(Result::ok) {
                let group = group.file_name().to_string_lossy().into_owned();
                found.insert(format!("{group}/{}", file.file_name().to_string_lossy()));
            }
        }
        let known: BTreeSet<String> = builtin::FILES.iter().map(|(file, _)| (*file).to_owned()).collect();
        assert_eq!(found, known, "list every file of findap-eval/tasks in src/registry/builtin.rs");
    }

    #[test]
    fn selections_are_names_globs_and_groups() {
        assert_eq!(names(&["gsm8k", "@finance.task", "fpb"])[0], "gsm8k");
        assert_eq!(names(&["mm*u"]), ["mmlu"]);
        assert_eq!(names(&["gsm8?", "gsm8k"]), ["gsm8k"]);
        assert!(names(&["@real"]).len() >= 5);
        let all = names(&["@all"]).len();
        assert_eq!(all, names(&["@finance"]).len() + names(&["@general"]).len());
        assert_eq!(all, names(&["@similar"]).len() + names(&["@novel"]).len());
    }

    #[test]
    fn a_task_that_cannot_be_run_is_left_out_of_groups_and_refused_by_name() {
        let registry = Registry::builtin().expect("built-in tasks parse");
        let names = |tasks: &[Task]| tasks.iter().map(|task| task.name.clone()).collect::<Vec<_>>();
        let (runnable, left_out) = registry.select_runnable(["@paper", "gsm8k"], false).expect("a group");
        assert_eq!((runnable.len(), left_out.len()), (34, 2));
        assert!(!names(&runnable).contains(&"mt_bench".to_owned()));
        let told = left_out[1].to_string();
        assert!(told.starts_with("task mt_bench is not run: ") && told.contains("judge"), "{told}");
        let error = registry.select_runnable(["gsm8k", "mt_bench"], false).expect_err("by name").to_string();
        assert_eq!(error, told);
        let (runnable, left_out) = registry.select_runnable(["@paper", "gsm8k"], true).expect("a group");
        assert_eq!((runnable.len(), left_out.len()), (36, 0));
    }

    #[test]
    fn unknown_names_say_the_nearest() {
        let registry = Registry::builtin().expect("built-in tasks parse");
        for (name, want) in [("gms8k", "gsm8k"), ("@finanse", "@finance"), ("@reasonning", "@reasoning")] {
            match registry.select([name]) {
                Err(EvalError::UnknownTask { nearest: Some(nearest), .. }) => assert_eq!(nearest, want),
                other => panic!("{name}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_folder_adds_tasks_and_may_not_repeat_names() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (_, text) = builtin::FILES.iter().find(|(file, _)| file.ends_with("gsm8k.toml")).expect("gsm8k");
        let renamed = text.replace("name = \"gsm8k\"", "name = \"mine\"");
        std::fs::write(folder.path().join("mine.toml"), renamed).expect("writes");
        let mut registry = Registry::builtin().expect("built-in tasks parse");
        registry.add_folder(folder.path()).expect("adds");
        assert_eq!(registry.select(["mine"]).expect("finds").len(), 1);
        assert!(matches!(registry.add_folder(folder.path()), Err(EvalError::TaskInvalid { field: "name", .. })));
        assert!(matches!(registry.add_folder(&folder.path().join("none")), Err(EvalError::Io { .. })));
    }
}
