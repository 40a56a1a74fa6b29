//! Training a part of the parameters.

use super::*;

/// The last block of the golden model, whose head is a tensor of its own or the embedding table.
fn last_block() -> TrainOptions {
    TrainOptions { trainable: Trainable::LastBlocks(1), schedule: without_warmup(1e-3), ..options() }
}

/// The names of the parameters that differ.
pub(super) fn changed(a: &Decoder, b: &Decoder) -> Vec<String> {
    let entries = a.params.spec().entries().iter();
    let differs = |range: std::ops::Range<usize>| {
        a.params.flat().sub(range.clone()).to_f64_vec() != b.params.flat().sub(range).to_f64_vec()
    };
    entries.filter(|entry| differs(entry.range())).map(|entry| entry.name.clone()).collect()
}

pub(super) fn expected(trainable: &Trainable, model: &Decoder) -> Vec<String> {
    let names = model.params.spec().entries().iter().map(|entry| entry.name.clone());
    names.filter(|name| trainable.is_trained(name, model.config.num_layers)).collect()
}

#[test]
fn what_is_frozen_keeps_its_bits_and_the_rest_is_trained() {
    let names = |patterns: &[&str]| Trainable::Names(patterns.iter().map(|&pattern| pattern.to_owned()).collect());
    for trainable in
        [Trainable::LastBlocks(1), names(&["*.self_attn.*", "*.mlp.up_proj.*"]), names(&["model.embed_tokens.weight"])]
    {
        let folder = tempfile::tempdir().unwrap();
        let options = TrainOptions { trainable: trainable.clone(), ..last_block() };
        let (model, _, _) = run(folder.path(), 2, &options, None).unwrap();
        assert_eq!(changed(&model, &tiny()), expected(&trainable, &model), "{trainable:?}");
    }
}

/// Compares a part trained alone with the same part trained beside all others. Only clipping, which sees all gradients, would differ.
#[test]
fn the_first_step_of_a_part_is_that_of_the_whole() {
    let adamw = AdamWOptions { clip_norm: f64::MAX, ..AdamWOptions::default() };
    let train = |trainable: Trainable| {
        let folder = tempfile::tempdir().unwrap();
        let (model, ..) = run(folder.path(), 1, &TrainOptions { trainable, adamw, ..last_block() }, None).unwrap();
        model
    };
    let (whole, part) = (train(Trainable::All), train(Trainable::LastBlocks(1)));
    let trained = expected(&Trainable::LastBlocks(1), &part);
    assert!(trained.len() > 9 && !changed(&whole, &part).is_empty());
    assert!(changed(&whole, &part).iter().all(|name| !trained.contains(name)));
}

#[test]
fn a_stopped_run_of_a_part_goes_on_bit_for_bit_from_checkpoints_of_that_part() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let options = TrainOptions { evaluate_every_steps: Some(2), dev_tokens: 2000, ..last_block() };
        let model = || Decoder::load(&golden("models/tiny"), dtype).unwrap();
        let run = |folder: &Path, stop_after| run_model(model(), folder, 5, &options, stop_after).unwrap().0;
        let (whole_folder, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let whole = run(whole_folder.path(), None);
        run(folder.path(), Some(3));
        let resumed = run(folder.path(), None);
        assert_eq!(resumed.params.flat().to_f64_vec(), whole.params.flat().to_f64_vec(), "{dtype}");
        assert_eq!(metrics(folder.path()), metrics(whole_folder.path()), "{dtype}");
        let base = Decoder::load(&golden("models/tiny"), dtype).unwrap();
        assert_eq!(changed(&whole, &base), expected(&options.trainable, &whole), "{dtype}");
        let trained = whole.zero_gradients().unwrap();
        assert!(trained.spec().len() < whole.params.spec().len());
        for array in ["params", "first_moment", "second_moment"] {
            let file = std::fs::metadata(folder.path().join(format!("checkpoint-5/{array}.bin"))).unwrap();
            assert_eq!(file.len(), 4 * trained.spec().len() as u64, "{array} of {dtype}");
        }
    }
}

#[test]
fn a_selection_that_matches_nothing_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let trainable = Trainable::Names(vec!["*.attention.*".to_owned()]);
    let error = run(folder.path(), 1, &TrainOptions { trainable, ..options() }, None).unwrap_err().to_string();
    assert!(error.contains("\"*.attention.*\" matches no parameter"), "{error}");
}
