//! Texts and a conversation to one packed batch: `cargo run -p findap-data --example pack -- MODEL`
//!
//! MODEL is a folder with `tokenizer.json` and a chat template, such as `assets/tiny-instruct`.

#![allow(clippy::print_stdout, reason = "a program, not a library")]

use findap_data::encode::{Outcome, RecordEncoder};
use findap_data::{Batch, ChatTemplate, DataError, Kind, Message, Record, Strategy, Tokenizer, inspect, pack};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("give a folder with a tokenizer")?;
    let (tokenizer, template) = (Tokenizer::load(folder.as_ref())?, ChatTemplate::load(folder.as_ref())?);
    let encoder = RecordEncoder { tokenizer: &tokenizer, template: Some(&template), context_tokens: 64 };

    let records = [
        (Kind::Text, Record::Text("A bond is a loan that can be sold.".to_owned())),
        (Kind::Text, Record::Text("Its price falls when rates rise.".to_owned())),
        (
            Kind::Chat,
            Record::Conversation(
                vec![Message::user("What is a bond?"), Message::assistant("A loan that can be sold.")].into(),
            ),
        ),
    ];
    let mut documents = Vec::new();
    for (kind, record) in &records {
        match encoder.documents(record, *kind)? {
            Outcome::Documents(found) | Outcome::PackedRow(found) => documents.extend(found),
            Outcome::Conversation { document, .. } => documents.push(document),
            Outcome::TooLong { .. } | Outcome::Empty | Outcome::EqualAnswers => println!("left out: {record:?}"),
        }
    }
    for (number, context) in contexts(&documents)?.iter().enumerate() {
        println!("context {number}: {} documents, {} tokens", context.num_documents(), context.num_tokens());
        for document in inspect::documents(context, &tokenizer)? {
            let marked = |token: &inspect::ShownToken| match token.is_target {
                true => format!("[{}]", token.text),
                false => token.text.clone(),
            };
            println!("  {}", document.tokens.iter().map(marked).collect::<String>().replace('\n', " "));
        }
    }
    Ok(())
}

/// Best-fit packing; no document is cut.
fn contexts(documents: &[findap_data::TokenizedRow]) -> Result<Vec<Batch>, DataError> {
    let lengths: Vec<usize> = documents.iter().map(findap_data::TokenizedRow::len).collect();
    let rows = pack(&lengths, 64, Strategy::BestFit)?;
    let batch_of = |row: &Vec<u32>| {
        let mut batch = Batch::new();
        row.iter().map(|index| &documents[*index as usize]).for_each(|d| batch.push_document(&d.ids, &d.mask));
        batch
    };
    Ok(rows.iter().map(batch_of).collect())
}
