use super::*;
use crate::truncation::{Truncation, TruncationMode};
use crate::{Ledger, Origin, PreferencePair, tokenise_pairs};
use bso_durable::Silent;

const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// A byte-level BPE without merges: every byte of text is a token; ids of bytes from 3.
fn bytes_tokenizer() -> tokenizers::Tokenizer {
    let mut vocabulary = serde_json::Map::new();
    for token in ["<|eos|>", "<|im_start|>", "<|im_end|>"] {
        vocabulary.insert(token.to_owned(), vocabulary.len().into());
    }
    let mut alphabet: Vec<char> =
        tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    for c in alphabet {
        vocabulary.insert(c.to_string(), vocabulary.len().into());
    }
    let merged = ["a b", "Ċ Ċ"];
    for merge in merged {
        vocabulary.insert(merge.replace(' ', ""), vocabulary.len().into());
    }
    let added: Vec<_> = (0..3)
        .map(|id| {
            let content = ["<|eos|>", "<|im_start|>", "<|im_end|>"][id];
            serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": merged},
    });
    tokenizers::Tokenizer::from_bytes(json.to_string()).unwrap()
}

fn chat(template: Option<&str>) -> ChatTokenizer {
    ChatTokenizer::from_parts(&bytes_tokenizer(), template, None, "<|eos|>").unwrap()
}

fn parts(tokenizer: &ChatTokenizer, prompt: &str, response: &str) -> (String, String) {
    let sequence = tokenizer.encode_response(&[Message::user(prompt)], response).unwrap();
    assert_eq!(sequence.prompt, tokenizer.encode_prompt(&[Message::user(prompt)]).unwrap());
    (tokenizer.decode_with_special(&sequence.prompt), tokenizer.decode_with_special(&sequence.response))
}

#[test]
fn the_response_ends_with_its_end_of_turn_and_nothing_behind_it() {
    let (prompt, response) = parts(&chat(Some(CHATML)), "hello", "good day");
    assert_eq!(prompt, "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n");
    assert_eq!(response, "good day<|im_end|>");
}

#[test]
fn whole_turns_keep_what_stands_behind_their_end_within_max_length() {
    let pair = PreferencePair {
        prompt: vec![Message::user("hello")],
        chosen: "good day to you".to_owned(),
        rejected: "no".to_owned(),
        chosen_unsafe: None,
        rejected_unsafe: None,
        chosen_margin: None,
        rejected_margin: None,
        origin: Origin::new("x", 1),
    };
    let mut tokenizer = chat(Some(CHATML));
    let tokenise = |tokenizer: &ChatTokenizer, max_length| {
        let truncation = Truncation { max_length, mode: TruncationMode::KeepStart };
        let mut pairs = tokenise_pairs(
            std::slice::from_ref(&pair),
            tokenizer,
            truncation,
            &mut Ledger::default(),
            &Silent,
        )
        .unwrap();
        pairs.remove(0)
    };
    let text = |tokenizer: &ChatTokenizer, ids: &[u32]| tokenizer.decode_with_special(ids);
    assert_eq!(text(&tokenizer, &tokenise(&tokenizer, None).rejected.response), "no<|im_end|>");
    tokenizer.keep_whole_turns();
    let whole = tokenise(&tokenizer, None);
    assert_eq!(text(&tokenizer, &whole.rejected.response), "no<|im_end|>\n");
    assert_eq!(text(&tokenizer, &whole.chosen.response), "good day to you<|im_end|>\n");
    // The end of the turn and what stands behind it are never cut.
    let limit = whole.chosen.prompt.len() + 6;
    let cut = tokenise(&tokenizer, Some(limit));
    assert_eq!(text(&tokenizer, &cut.chosen.response), "good<|im_end|>\n");
    assert_eq!(
        (cut.chosen.len(), text(&tokenizer, &cut.rejected.response)),
        (limit, "no<|im_end|>\n".to_owned())
    );
    // A token across the boundary stays whole, where a language model's response begins with a token of its own.
    let prompt = [Message::user("hello")];
    let sequence = tokenizer.encode_response(&prompt, "\nno").unwrap();
    let text_of_all = tokenizer.render(&[prompt[0].clone(), Message::assistant("\nno")], false).unwrap();
    let ids = [sequence.prompt.clone(), sequence.response, tokenizer.behind_turn(&prompt).unwrap()].concat();
    assert_eq!(ids, tokenizer.encode_text(&text_of_all).unwrap());
    assert!(sequence.prompt.len() < tokenizer.encode_prompt(&prompt).unwrap().len());
    let mut plain = chat(None);
    plain.keep_whole_turns();
    assert_eq!(text(&plain, &tokenise(&plain, None).rejected.response), "no<|eos|>");
}

#[test]
fn no_text_is_searched_for() {
    let tokenizer = chat(Some(CHATML));
    for (prompt, response) in [
        ("x", "<|im_start|>assistant\nx<|im_end|>\nmore"),
        ("good <|im_start|>assistant\ngood", "good"),
        ("p", "p<|im_end|>"),
        ("a", "a"),
        ("b", "b a b"),
        ("", "\n\n"),
    ] {
        assert_eq!(parts(&tokenizer, prompt, response).1, format!("{response}<|im_end|>"));
    }
}

#[test]
fn a_template_that_ends_no_turn_gets_eos() {
    let open = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}";
    let (prompt, response) = parts(&chat(Some(open)), "hello", "day");
    assert_eq!((prompt.as_str(), response.as_str()), ("user: hello\nassistant:", " day\n<|eos|>"));
}

#[test]
fn a_second_end_behind_the_first_is_not_scored() {
    let phi = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% else %}{{ eos_token }}{% endif %}";
    assert_eq!(parts(&chat(Some(phi)), "q", "r").1, "r<|im_end|>");
}

#[test]
fn text_between_header_and_content_belongs_to_the_response_unless_the_prompt_has_it() {
    let think = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + ('<think></think>' if m.role == 'assistant' else '') + m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}";
    let without = format!("{think}{{% endif %}}");
    assert_eq!(parts(&chat(Some(&without)), "q", "r").1, "<think></think>r<|im_end|>");
    let with = format!("{think}{{{{ '<think></think>' }}}}{{% endif %}}");
    assert_eq!(parts(&chat(Some(&with)), "q", "r").1, "r<|im_end|>");
}

#[test]
fn a_token_across_the_boundary_leaves_the_prompt_as_generation_sees_it() {
    // "a" + "b" and the two line feeds merge into one token where they meet.
    let joined = "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}";
    let (prompt, response) = parts(&chat(Some(joined)), "xa", "by");
    assert_eq!((prompt.as_str(), response.as_str()), ("xa", "by<|eos|>"));
    assert_eq!(parts(&chat(Some(CHATML)), "q", "\nr").1, "\nr<|im_end|>");
}

#[test]
fn a_header_that_a_finished_turn_lacks_ends_the_prompt_where_the_two_part() {
    let opened = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}";
    let tokenizer = chat(Some(opened));
    let sequence = tokenizer.encode_response(&[Message::user("q")], "r").unwrap();
    assert_eq!(tokenizer.decode_with_special(&sequence.response), "r<|im_end|>");
    let rewriting = "{% for m in messages %}{{ (loop.length | string) + m.content + eos_token }}{% endfor %}";
    let error = chat(Some(rewriting)).encode_response(&[Message::user("q")], "r").unwrap_err().to_string();
    assert!(error.contains("writes the prompt differently"), "{error}");
}

#[test]
fn without_a_template_bos_comes_once_and_eos_ends() {
    let tokenizer = chat(None);
    assert_eq!(parts(&tokenizer, "hello", "day"), ("hello".to_owned(), "day<|eos|>".to_owned()));
    let words = ChatTokenizer::word_level(&["hello", "day"]).unwrap();
    assert!(!words.adds_bos());
    let sequence = words.encode_response(&[Message::user("hello")], "day").unwrap();
    assert_eq!((sequence.prompt, sequence.response), (vec![1, 2, 6, 4, 3], vec![7, 4]));
}

#[test]
fn a_first_token_that_nothing_predicts_is_not_scored() {
    let sequence = chat(None).encode_response(&[], "day").unwrap();
    assert_eq!((sequence.prompt.len(), sequence.response.len()), (1, 3));
}

#[test]
fn keep_end_cuts_only_what_a_shortened_prompt_has() {
    let opened = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' + messages[0].content }}{% endif %}";
    let truncation = Truncation { max_length: Some(28), mode: TruncationMode::KeepEnd };
    let pairs = [pair(1, "hello world", "yes", "no")];
    let kept =
        tokenise_pairs(&pairs, &chat(Some(opened)), truncation, &mut Ledger::default(), &Silent).unwrap();
    assert_eq!(kept[0].chosen.len(), 28);
}

#[test]
fn words_come_back_as_they_were() {
    let tokenizer = ChatTokenizer::word_level(&["open", "the", "vault,", "2", "doors."]).unwrap();
    let text = "open the 2 doors. open vault, the";
    assert_eq!(tokenizer.decode(&tokenizer.encode_text(text).unwrap()), text);
    assert_eq!(tokenizer.vocab_size(), 11);
    assert_eq!(tokenizer.end_of_turn_ids(), [4]);
    for words in [&["a", "a"][..], &["a b"], &[""], &["<end>"]] {
        assert!(ChatTokenizer::word_level(words).is_err(), "{words:?}");
    }
}

#[test]
fn a_saved_tokenizer_loads_again_with_the_same_fingerprint() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = ChatTokenizer::word_level(&["a", "b"]).unwrap();
    tokenizer.save(dir.path()).unwrap();
    let again = ChatTokenizer::load(dir.path(), &TemplateChoice::Auto).unwrap();
    assert_eq!(again.fingerprint(), tokenizer.fingerprint());
    let other = ChatTokenizer::load(dir.path(), &TemplateChoice::Named("plain".to_owned())).unwrap();
    assert_ne!(other.fingerprint(), tokenizer.fingerprint());
    let second = tempfile::tempdir().unwrap();
    other.save(second.path()).unwrap();
    let third = ChatTokenizer::load(second.path(), &TemplateChoice::Auto).unwrap();
    assert_eq!(third.fingerprint(), other.fingerprint());
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        assert_eq!(
            std::fs::read(dir.path().join(name)).unwrap(),
            std::fs::read(second.path().join(name)).unwrap()
        );
    }
}

fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), bytes_tokenizer().to_string(false).unwrap()).unwrap();
    for (name, content) in files {
        std::fs::write(dir.path().join(name), content).unwrap();
    }
    dir
}

fn load(files: &[(&str, &str)], choice: &TemplateChoice) -> Result<ChatTokenizer, String> {
    ChatTokenizer::load(directory(files).path(), choice).map_err(|e| e.to_string())
}

#[test]
fn special_tokens_and_templates_are_found_wherever_they_stand() {
    let auto = TemplateChoice::Auto;
    for files in [
        &[("tokenizer_config.json", r#"{"eos_token": "<|eos|>", "bos_token": null}"#)][..],
        &[("tokenizer_config.json", r#"{"eos_token": {"content": "<|eos|>", "lstrip": false}}"#)],
        &[("special_tokens_map.json", r#"{"eos_token": {"content": "<|eos|>"}}"#)],
        &[("config.json", r#"{"eos_token_id": 0}"#)],
        &[("generation_config.json", r#"{"eos_token_id": [0, 2]}"#)],
    ] {
        let tokenizer = load(files, &auto).unwrap();
        assert_eq!(tokenizer.eos(), ("<|eos|>", 0), "{files:?}");
        assert!(tokenizer.template().is_none());
    }
    let new = load(&[("tokenizer_config.json", r#"{"eos_token": "</new>"}"#)], &auto).unwrap();
    assert_eq!(new.eos().1 as usize, new.vocab_size() - 1);
    assert!(load(&[], &auto).unwrap_err().contains("eos_token"));

    let eos = ("special_tokens_map.json", r#"{"eos_token": "<|eos|>"}"#);
    let named =
        r#"{"chat_template": [{"name": "default", "template": "D"}, {"name": "rag", "template": "R"}]}"#;
    for (files, choice, source) in [
        (vec![eos, ("tokenizer_config.json", r#"{"chat_template": "C"}"#)], TemplateChoice::Auto, "C"),
        (vec![eos, ("tokenizer_config.json", named)], TemplateChoice::Auto, "D"),
        (vec![eos, ("tokenizer_config.json", named)], TemplateChoice::parse("rag"), "R"),
        (vec![eos, ("chat_template.json", r#"{"chat_template": "J"}"#)], TemplateChoice::Auto, "J"),
        (
            vec![eos, ("chat_template.jinja", "F"), ("tokenizer_config.json", named)],
            TemplateChoice::Auto,
            "F",
        ),
    ] {
        assert_eq!(load(&files, &choice).unwrap().template().unwrap().source(), source);
    }
    let error = load(&[eos, ("tokenizer_config.json", named)], &TemplateChoice::parse("rug")).unwrap_err();
    assert!(error.contains("default, rag") && error.contains("chatml"), "{error}");
}

#[test]
fn the_models_stop_list_and_the_templates_end_stop_generation() {
    let files = [
        ("tokenizer_config.json", r#"{"eos_token": "<|eos|>"}"#),
        ("generation_config.json", r#"{"eos_token_id": [0, 7]}"#),
    ];
    assert_eq!(load(&files, &TemplateChoice::Text(CHATML.to_owned())).unwrap().end_of_turn_ids(), [0, 2, 7]);
}

#[test]
fn hostile_tokenizer_files_are_errors() {
    let whole = bytes_tokenizer().to_string(false).unwrap();
    let mut hostile = vec![
        String::new(),
        "{}".to_owned(),
        "[]".to_owned(),
        "\u{0}\u{1}".to_owned(),
        whole[..whole.len() / 2].to_owned(),
        whole.replace("\"BPE\"", "\"Unknown\""),
        whole.replace("\"a b\"", "\"zzz yyy\"").replace("[\"a\",\"b\"]", "[\"zzz\",\"yyy\"]"),
        whole.replace("\"type\":\"ByteLevel\"", "\"type\":7"),
        whole.replace("\"id\":2", "\"id\":4294967295"),
        whole.replace("\"<|im_end|>\":2", "\"<|im_end|>\":-2"),
        whole.replace("\"post_processor\":null", "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"[X]\",\"type_id\":0}}],\"pair\":[],\"special_tokens\":{}}"),
        r#"{"version":"1.0","added_tokens":[],"model":{"type":"WordLevel","vocab":{},"unk_token":"u"}}"#.to_owned(),
        r#"{"version":"1.0","added_tokens":[],"model":{"type":"Unigram","vocab":[],"unk_id":9}}"#.to_owned(),
        r#"{"version":"1.0","added_tokens":[],"model":{"type":"WordLevel","vocab":{"a":4000000000},"unk_token":"a"}}"#.to_owned(),
    ];
    hostile.push("[".repeat(1 << 20));
    for content in hostile {
        let files = [
            ("tokenizer.json", content.as_str()),
            ("special_tokens_map.json", r#"{"eos_token": "<|eos|>"}"#),
        ];
        // Whether it loads or not: an answer, never a panic. What loads must encode or say why not.
        match load(&files, &TemplateChoice::Auto) {
            Err(error) => assert!(error.starts_with("tokenizer in "), "{error}"),
            Ok(tokenizer) => drop(tokenizer.encode_response(&[Message::user("a b")], "c")),
        }
    }
    let broken = [("tokenizer_config.json", "{\"eos_token\": ")];
    assert!(load(&broken, &TemplateChoice::Auto).unwrap_err().contains("tokenizer_config.json"));
    assert!(ChatTokenizer::load(Path::new("no/such/dir"), &TemplateChoice::Auto).is_err());
}

fn pair(row: usize, prompt: &str, chosen: &str, rejected: &str) -> PreferencePair {
    PreferencePair {
        prompt: vec![Message::user(prompt)],
        chosen: chosen.to_owned(),
        rejected: rejected.to_owned(),
        chosen_unsafe: None,
        rejected_unsafe: None,
        chosen_margin: None,
        rejected_margin: None,
        origin: Origin::new("d.jsonl", row),
    }
}

/// Prompt, chosen and rejected, decoded.
type Texts = (String, String, String);

fn tokenised(
    mode: TruncationMode,
    max_length: usize,
    pairs: &[PreferencePair],
) -> (Result<Vec<Texts>, String>, Ledger) {
    let tokenizer = chat(Some(CHATML));
    let mut ledger = Ledger::default();
    let truncation = Truncation { max_length: Some(max_length), mode };
    let pairs = tokenise_pairs(pairs, &tokenizer, truncation, &mut ledger, &Silent);
    let text = |ids: &[u32]| tokenizer.decode_with_special(ids);
    let pairs = pairs.map_err(|e| e.to_string()).map(|pairs| {
        pairs
            .iter()
            .map(|p| {
                assert!(p.chosen.len() <= max_length && p.rejected.len() <= max_length);
                assert_eq!(p.chosen.prompt, p.rejected.prompt);
                (text(&p.chosen.prompt), text(&p.chosen.response), text(&p.rejected.response))
            })
            .collect()
    });
    (pairs, ledger)
}

/// "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n": 24 tokens with a five-letter prompt.
const PROMPT: usize = 24;

#[test]
fn a_response_longer_than_max_length_is_cut_before_its_end_of_turn_and_counted() {
    let pairs = [pair(1, "hello", "long answer", "no"), pair(2, "hello", "same start 1", "same start 2")];
    let (kept, ledger) = tokenised(TruncationMode::KeepStart, PROMPT + 6, &pairs);
    let kept = kept.unwrap();
    assert_eq!((kept[0].1.as_str(), kept[0].2.as_str()), ("long <|im_end|>", "no<|im_end|>"));
    assert_eq!((ledger.kept, ledger.dropped_rows()), (1, 1));
    assert_eq!(ledger.truncated["response end cut (keep_start)"].rows, 1);
    let (kept, ledger) = tokenised(TruncationMode::KeepStart, PROMPT, &pairs);
    assert_eq!((kept.unwrap().len(), ledger.dropped["the prompt alone fills max_length"].rows), (0, 2));
}

#[test]
fn keep_end_cuts_the_start_of_the_prompts_text_for_both_responses() {
    let pairs = [pair(1, "hello", "long answer", "no")];
    let (kept, ledger) = tokenised(TruncationMode::KeepEnd, PROMPT + 12 - 3, &pairs);
    let kept = kept.unwrap();
    assert_eq!(kept[0].0, "<|im_start|>user\nlo<|im_end|>\n<|im_start|>assistant\n");
    assert_eq!((kept[0].1.as_str(), kept[0].2.as_str()), ("long answer<|im_end|>", "no<|im_end|>"));
    assert_eq!(ledger.truncated["prompt start cut (keep_end)"].rows, 1);
    let (kept, ledger) = tokenised(TruncationMode::KeepEnd, PROMPT + 6, &pairs);
    assert_eq!((kept.unwrap().len(), ledger.dropped_rows()), (0, 1));
}

#[test]
fn drop_counts_and_raise_names_the_row() {
    let pairs = [pair(1, "hello", "a", "b"), pair(7, "hello", "long answer", "no")];
    let (kept, ledger) = tokenised(TruncationMode::Drop, PROMPT + 6, &pairs);
    assert_eq!((kept.unwrap().len(), ledger.dropped["longer than max_length"].rows), (1, 1));
    let error = tokenised(TruncationMode::Raise, PROMPT + 6, &pairs).0.unwrap_err();
    assert!(error.contains("d.jsonl:7: 36 tokens") && error.contains("max_length 30"), "{error}");
}

#[test]
fn a_template_that_raises_names_the_row() {
    let tokenizer = chat(Some("{{ raise_exception('no') }}"));
    let error = tokenise_pairs(
        &[pair(3, "q", "a", "b")],
        &tokenizer,
        Truncation::default(),
        &mut Ledger::default(),
        &Silent,
    );
    let error = error.unwrap_err().to_string();
    assert!(error.contains("d.jsonl:3") && error.contains("refuses the conversation: \"no\""), "{error}");
}

#[test]
fn oddities_of_templates_are_explained() {
    assert_eq!(chat(Some(CHATML)).oddities(), Vec::<String>::new());
    assert_eq!(chat(None).oddities(), Vec::<String>::new());
    let of = |template: &str| chat(Some(template)).oddities();
    let gemma =
        "{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content }}<end_of_turn>\n{% endfor %}";
    let said = of(gemma);
    assert!(
        said[0].contains("writes <start_of_turn>, <end_of_turn>, which the tokenizer does not know"),
        "{said:?}"
    );
    assert!(said[1].contains("no special token") && said[1].contains("<|eos|> is appended"), "{said:?}");
    let words = ChatTokenizer::word_level(&["a"]).unwrap();
    assert_eq!(words.oddities(), Vec::<String>::new());
    let bos = words.bos().unwrap().1;
    assert!(words.doubles_bos(&[bos, bos, 7]) && !words.doubles_bos(&[bos, 7, bos]));
    // A row that brings its own BOS.
    assert!(words.doubles_bos(
        &words.encode_prompt(&[Message::user("a")]).map(|ids| [vec![bos], ids].concat()).unwrap()
    ));
}
