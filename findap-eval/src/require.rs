//! Requirements on what changed: the gate before a model is promoted.

use std::str::FromStr;

use findap_data::{Capability, Domain};

use crate::compare::{Comparison, Delta};

/// What a requirement is about. Each is a mean over tasks, every task with the same weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// All tasks.
    All,
    /// All tasks of a domain.
    Domain(Domain),
    /// The tasks of one capability in a domain.
    Cell(Domain, Capability),
    /// One task, by its name.
    Task(String),
}

/// A least change, after minus before, that a comparison must support.
#[derive(Debug, Clone, PartialEq)]
pub struct Requirement {
    /// The text that it was read from.
    pub text: String,
    /// The tasks.
    pub subject: Subject,
    /// The least change, in points of a hundred.
    pub least_points: f64,
}

/// What a comparison says of a requirement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The whole interval of the change is at least what is required.
    Supported,
    /// The interval reaches to both sides of what is required: more rows are needed to tell.
    Open,
    /// The whole interval is below what is required.
    Refuted,
}

impl Verdict {
    /// The word for readers.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Supported => "supported",
            Verdict::Open => "not shown",
            Verdict::Refuted => "refuted",
        }
    }
}

/// A requirement with the change that it was held against.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// The requirement.
    pub requirement: Requirement,
    /// The change of the mean over its tasks.
    pub delta: Delta,
    /// Whether it is supported.
    pub verdict: Verdict,
}

/// Why a text is no requirement, or a comparison cannot answer it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("requirement `{text}`: {problem}")]
pub struct RequirementError {
    /// The text of the requirement.
    pub text: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

/// Reads requirements that commas divide, such as `finance >= +3, general >= -1, gsm8k >= 0`.
///
/// # Errors
/// [`RequirementError`] with the first that cannot be read.
pub fn parse(text: &str) -> Result<Vec<Requirement>, RequirementError> {
    text.split(',').map(str::parse).collect()
}

impl FromStr for Requirement {
    type Err = RequirementError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let wrong = |problem: &str| RequirementError { text: text.to_owned(), problem: problem.to_owned() };
        let form = "has not the form `SUBJECT >= POINTS`, such as `finance >= +3` or `general reasoning >= -0.5`";
        let (subject, points) = text.split_once(">=").ok_or_else(|| wrong(form))?;
        let least_points: f64 = points.trim().parse().map_err(|_| wrong(form))?;
        if !least_points.is_finite() || least_points.abs() > 100.0 {
            return Err(wrong("scores change by -100 to +100 points"));
        }
        let named = |word: &str| {
            let domain = Domain::ALL.into_iter().find(|domain| domain.name() == word);
            let capability = Capability::ALL.into_iter().find(|capability| capability.name() == word);
            (domain, capability)
        };
        let words: Vec<&str> = subject.split_whitespace().collect();
        let subject = match words[..] {
            ["all"] => Subject::All,
            [word] => match named(word) {
                (Some(domain), _) => Subject::Domain(domain),
                (None, Some(_)) => return Err(wrong("names a capability; say of which domain: `finance reasoning`")),
                (None, None) => Subject::Task(word.to_owned()),
            },
            [first, second] => match (named(first).0, named(second).1) {
                (Some(domain), Some(capability)) => Subject::Cell(domain, capability),
                _ => return Err(wrong("two words are a domain and a capability: `finance reasoning`")),
            },
            _ => return Err(wrong(form)),
        };
        Ok(Requirement { text: text.to_owned(), subject, least_points })
    }
}

impl Requirement {
    /// Holds the requirement against a comparison.
    ///
    /// # Errors
    /// [`RequirementError`] where no task answers it; where a task of it, or a row, is in one of the two runs only, for the comparison
    /// would then speak of less than is required; and where the runs differ in settings, for then it is not the model that changed.
    pub fn check(&self, comparison: &Comparison) -> Result<Checked, RequirementError> {
        let wrong = |problem: String| RequirementError { text: self.text.clone(), problem };
        let concerns = |name: &str, domain: Domain, capability: Capability| match &self.subject {
            Subject::All => true,
            Subject::Domain(of) => domain == *of,
            Subject::Cell(of, what) => (domain, capability) == (*of, *what),
            Subject::Task(of) => name == of,
        };
        let unpaired = comparison.unpaired.iter().find(|task| concerns(&task.name, task.domain, task.capability));
        if let Some(task) = unpaired {
            return Err(wrong(format!("task {} was run in one of the two evaluations only", task.name)));
        }
        let of_subject: Vec<usize> = (0..comparison.tasks.len())
            .filter(|&index| {
                let task = &comparison.tasks[index];
                concerns(&task.name, task.domain, task.capability)
            })
            .collect();
        let partial = of_subject.iter().map(|&index| &comparison.tasks[index]).find(|task| task.unpaired_rows > 0);
        if let Some(task) = partial {
            let problem =
                format!("{} rows of task {} are in one of the two evaluations only", task.unpaired_rows, task.name);
            return Err(wrong(problem));
        }
        let concerns_setting = |task: &Option<String>| {
            let is_of_subject = |name: &String| of_subject.iter().any(|&index| comparison.tasks[index].name == *name);
            task.as_ref().is_none_or(is_of_subject)
        };
        if let Some(difference) = comparison.settings.iter().find(|difference| concerns_setting(&difference.task)) {
            return Err(wrong(format!(
                "the two evaluations differ in more than the model: {difference}; evaluate both alike"
            )));
        }
        let delta = comparison.mean(&of_subject).ok_or_else(|| {
            let names: Vec<&str> = comparison.tasks.iter().map(|task| task.name.as_str()).collect();
            wrong(format!("no task of the two evaluations answers it; they have {}", names.join(", ")))
        })?;
        // A change of exactly 10 points may come out as 0.09999999999999998.
        let least = self.least_points / 100.0 - 1e-9;
        let verdict = match (delta.low >= least, delta.high < least) {
            (true, _) => Verdict::Supported,
            (false, true) => Verdict::Refuted,
            (false, false) => Verdict::Open,
        };
        Ok(Checked { requirement: self.clone(), delta, verdict })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_are_read_and_others_are_refused() {
        let read = parse("finance >= +3, general reasoning>=-0.5 , gsm8k >= 0,all >= 1").expect("reads");
        let subjects: Vec<_> =
            read.iter().map(|requirement| (&requirement.subject, requirement.least_points)).collect();
        let gsm8k = Subject::Task("gsm8k".to_owned());
        let cell = Subject::Cell(Domain::General, Capability::Reasoning);
        let want = [(&Subject::Domain(Domain::Finance), 3.0), (&cell, -0.5), (&gsm8k, 0.0), (&Subject::All, 1.0)];
        assert_eq!(subjects, want);
        for wrong in [
            "",
            "finance",
            "finance > 3",
            "finance >= x",
            "finance >= NaN",
            "finance >= 101",
            "reasoning >= 1",
            "a b >= 1",
            "finance >= 3,",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
