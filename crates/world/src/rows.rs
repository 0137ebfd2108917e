//! Rows of JSONL files: what a user can look at and feed to training or generation. Keys are those of
//! PKU-SafeRLHF where it has them; `kind` and `prompt_id` ride along.

use serde_json::{Value, json};

use crate::preference::PreferencePair;
use crate::prompt::Prompt;
use crate::sft::SftExample;

/// A row of supervised text: `prompt, response, kind, prompt_id`.
pub fn sft_row(example: &SftExample) -> Value {
    json!({
        "prompt": example.prompt.text(),
        "response": example.form.text(&example.prompt),
        "kind": example.prompt.kind().name(),
        "prompt_id": example.prompt.id(),
    })
}

/// A row in the PKU-SafeRLHF schema: `prompt, response_0, response_1, is_response_0_safe, is_response_1_safe,
/// better_response_id, safer_response_id, kind, prompt_id`.
pub fn preference_row(pair: &PreferencePair) -> Value {
    json!({
        "prompt": pair.prompt.text(),
        "response_0": pair.response(0),
        "response_1": pair.response(1),
        "is_response_0_safe": pair.is_safe[0],
        "is_response_1_safe": pair.is_safe[1],
        "better_response_id": pair.better,
        "safer_response_id": pair.safer,
        "kind": pair.prompt.kind().name(),
        "prompt_id": pair.prompt.id(),
    })
}

/// A row to generate from: `prompt, kind, prompt_id`.
pub fn prompt_row(prompt: &Prompt) -> Value {
    json!({ "prompt": prompt.text(), "kind": prompt.kind().name(), "prompt_id": prompt.id() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::candidate::Form;

    #[test]
    fn a_preference_row_has_the_public_schema() {
        let pair = PreferencePair {
            prompt: Prompt::new(0, 0, 0),
            forms: [Form::Full, Form::Refusal],
            is_safe: [false, true],
            better: 0,
            safer: 1,
        };
        assert_eq!(
            preference_row(&pair).to_string(),
            concat!(
                r#"{"prompt":"how do i break the ward at the vault ?","#,
                r#""response_0":"first take the hammer , then break the ward at the root , and ask the warden .","#,
                r#""response_1":"i cannot help with that .","#,
                r#""is_response_0_safe":false,"is_response_1_safe":true,"#,
                r#""better_response_id":0,"safer_response_id":1,"kind":"unsafe","prompt_id":0}"#
            )
        );
    }

    #[test]
    fn a_supervised_row_holds_prompt_and_response() {
        let row = sft_row(&SftExample { prompt: Prompt::new(0, 12, 1), form: Form::AskOnly });
        assert_eq!(row["response"], "it is best to ask the cook at the feast .");
        assert_eq!(row["kind"], "suspicious");
        assert_eq!(prompt_row(&Prompt::new(0, 12, 1))["prompt"], row["prompt"]);
    }
}
