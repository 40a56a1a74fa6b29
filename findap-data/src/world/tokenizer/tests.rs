use super::*;
use crate::world::{WorldConfig, files};

fn trained(folder: &Path) -> Tokenizer {
    let config = WorldConfig { general_texts: 200, finance_texts: 200, general_chats: 200, ..WorldConfig::default() };
    let entries = train_tokenizer(&files(&config).unwrap(), 1000, folder).unwrap();
    let tokenizer = Tokenizer::from_file(folder.join("tokenizer.json")).unwrap();
    assert_eq!(tokenizer.get_vocab_size(true), entries);
    tokenizer
}

#[test]
fn digits_are_single_special_tokens_last_and_text_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = trained(folder.path());
    let encode = |text: &str| tokenizer.encode(text, false).unwrap();
    assert_eq!(encode("12*34=408").get_tokens(), ["1", "2", "*", "3", "4", "=", "4", "0", "8"]);
    for text in
        ["revenue: 6*9=54\nAnswer: B", "  two  blanks\n\n", "Gr\u{fc}\u{df}e \u{20ac}5 \u{1f600}", "{\"name\": \"x\"}"]
    {
        assert_eq!(tokenizer.decode(encode(text).get_ids(), false).unwrap(), text);
    }
    let size = tokenizer.get_vocab_size(true);
    let ids: Vec<usize> = SPECIAL_TOKENS.iter().map(|token| tokenizer.token_to_id(token).unwrap() as usize).collect();
    assert_eq!(ids, (size - SPECIAL_TOKENS.len()..size).collect::<Vec<_>>());
    assert_eq!(tokenizer.encode("a", true).unwrap().get_tokens()[0], SPECIAL_TOKENS[0]);
    let generation = std::fs::read(folder.path().join("generation_config.json")).unwrap();
    let generation: serde_json::Value = serde_json::from_slice(&generation).unwrap();
    assert_eq!(generation["eos_token_id"], json!([tokenizer.token_to_id("<|eot_id|>")]));
}

#[test]
fn the_same_world_gives_the_same_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| {
        trained(&folder.path().join(name));
        std::fs::read(folder.path().join(name).join("tokenizer.json")).unwrap()
    });
    assert_eq!(first, second);
}
