//! Evaluation tasks as data: engine, metrics, comparison and report.
