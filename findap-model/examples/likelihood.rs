//! Prints how likely a model finds each answer to a question: `cargo run --release -p findap-model --example likelihood -- MODEL`
//!
//! MODEL is a model folder as Hugging Face lays it out, such as `assets/tiny-instruct`.

#![allow(clippy::print_stdout, reason = "a program, not a library")]

use findap_data::Message;
use findap_model::{Dtype, GenerateRequest, Sampling, TextModel};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("give a model folder")?;
    let model = TextModel::load(folder.as_ref(), Dtype::F32)?;
    println!("{} parameters", model.decoder().params.spec().len());

    let prompt = model.encode_chat(&[Message::user("What is 7 and 5?")])?;
    let answer = |text: &str| model.tokenizer().encode(text, false);
    let answers = ["12", "13", "bread"];
    let pairs = answers
        .iter()
        .map(|text| Ok((prompt.clone(), answer(text)?)))
        .collect::<Result<Vec<_>, findap_data::DataError>>()?;
    for (text, likelihood) in answers.iter().zip(model.score(&pairs)?) {
        println!("{:8.3}  {text}{}", likelihood.logp, if likelihood.is_greedy { "  (what it would say)" } else { "" });
    }

    let request = GenerateRequest {
        prompt,
        max_new: 32,
        sampling: Sampling { temperature: 0.0, top_k: 0, top_p: 1.0 },
        seed: 0,
        stop_ids: model.tokenizer().stop_ids().to_vec(),
    };
    for generated in model.generate(&[request])? {
        println!("it says: {}", model.decode(&generated)?);
    }
    Ok(())
}
