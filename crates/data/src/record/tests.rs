use super::*;
use serde_json::json;

fn parse(schema: Schema, row: Value) -> Result<PreferenceRecord, Rejection> {
    let Value::Object(row) = row else { unreachable!() };
    PreferenceRecord::parse(schema, &row, &Origin::new("d.jsonl", 1)).map_err(|(reason, _)| reason)
}

fn pku() -> Value {
    json!({"prompt": "p", "response_0": "a", "response_1": "b", "is_response_0_safe": true,
           "is_response_1_safe": false, "better_response_id": 1, "safer_response_id": 0})
}

fn with(mut row: Value, key: &str, value: Value) -> Value {
    row[key] = value;
    row
}

#[test]
fn a_pku_row_is_ordered_by_either_judgement_with_its_labels() {
    let record = parse(Schema::PkuSafeRlhf, pku()).unwrap();
    let better = record.clone().into_pair(Preference::Better).unwrap();
    assert_eq!((better.chosen.as_str(), better.labels()), ("b", Some((true, false))));
    let safer = record.into_pair(Preference::Safer).unwrap();
    assert_eq!((safer.chosen.as_str(), safer.labels()), ("a", Some((false, true))));
}

#[test]
fn a_null_id_serves_only_the_other_judgement() {
    let record = parse(Schema::PkuSafeRlhf, with(pku(), "safer_response_id", Value::Null)).unwrap();
    assert!(record.clone().into_pair(Preference::Better).is_ok());
    assert_eq!(record.into_pair(Preference::Safer).unwrap_err().0, Rejection::NoPreferenceLabel);
}

#[test]
fn rows_that_cannot_be_used_say_why() {
    for (key, value, reason) in [
        ("prompt", json!(""), Rejection::MissingPrompt),
        ("prompt", Value::Null, Rejection::MissingPrompt),
        ("prompt", json!(3), Rejection::WrongType),
        ("response_0", json!(" \n"), Rejection::EmptyResponse),
        ("response_0", json!("b"), Rejection::IdenticalResponses),
        ("response_1", json!(["b"]), Rejection::WrongType),
        ("response_1", Value::Null, Rejection::MissingField),
        ("better_response_id", json!(2), Rejection::WrongType),
        ("better_response_id", json!("one"), Rejection::WrongType),
        ("is_response_0_safe", json!("yes"), Rejection::WrongType),
    ] {
        assert_eq!(
            parse(Schema::PkuSafeRlhf, with(pku(), key, value.clone())).unwrap_err(),
            reason,
            "{key} {value}"
        );
    }
}

#[test]
fn flat_rows_carry_labels_and_margins() {
    let row = json!({"prompt": "p", "chosen": "a", "rejected": "b", "chosen_safe": false, "rejected_safe": 1,
                     "chosen_margin": 0.5, "rejected_margin": -1});
    let record = parse(Schema::Flat, row).unwrap();
    let pair = record.clone().into_pair(Preference::Better).unwrap();
    assert_eq!(pair.labels(), Some((true, false)));
    assert_eq!((pair.chosen_margin, pair.rejected_margin), (Some(0.5), Some(-1.0)));
    let safer = record.into_pair(Preference::Safer).unwrap();
    assert_eq!((safer.chosen.as_str(), safer.chosen_margin), ("b", Some(-1.0)));
}

#[test]
fn dialogues_are_split_at_the_last_assistant_turn() {
    let row = json!({"chosen": "\n\nHuman: one\n\nAssistant: two\n\nHuman: three\n\nAssistant: four\n\nand more",
                     "rejected": "\n\nHuman: one\n\nAssistant: two\n\nHuman: three\n\nAssistant: five"});
    let record = parse(Schema::Hh, row).unwrap();
    let expected = [Message::user("one"), Message::assistant("two"), Message::user("three")];
    assert_eq!(record.prompt, expected);
    assert_eq!(record.responses, ["four\n\nand more", "five"]);
    for (chosen, rejected, reason) in [
        ("\n\nHuman: one\n\nAssistant: a", "\n\nHuman: two\n\nAssistant: b", Rejection::PromptsDiffer),
        ("\n\nHuman: one", "\n\nHuman: one\n\nAssistant: b", Rejection::NoAssistantTurn),
        ("one\n\nHuman: x\n\nAssistant: a", "\n\nHuman: x\n\nAssistant: b", Rejection::WrongType),
    ] {
        assert_eq!(parse(Schema::Hh, json!({"chosen": chosen, "rejected": rejected})).unwrap_err(), reason);
    }
}

#[test]
fn conversations_with_and_without_a_prompt_column_agree() {
    let user = json!({"role": "user", "content": "q"});
    let says = |text: &str| json!({"role": "assistant", "content": text});
    let explicit = parse(
        Schema::Conversational,
        json!({"prompt": [user], "chosen": [says("a")], "rejected": [says("b")]}),
    );
    let implicit =
        parse(Schema::Conversational, json!({"chosen": [user, says("a")], "rejected": [user, says("b")]}));
    assert_eq!(explicit, implicit);
    assert_eq!(explicit.unwrap().responses, ["a", "b"]);
    assert_eq!(
        parse(Schema::Conversational, json!({"chosen": [user], "rejected": [user, says("b")]})).unwrap_err(),
        Rejection::NoAssistantTurn
    );
    assert_eq!(
        parse(Schema::Conversational, json!({"chosen": [{"role": "user"}], "rejected": []})).unwrap_err(),
        Rejection::WrongType
    );
}
