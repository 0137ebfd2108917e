//! The finite candidate set of a prompt: twelve forms of response, from the whole answer to a refusal. Sentences
//! only; what they are worth is decided by `reward`, which knows no form.

use serde::Serialize;

use crate::facts::{OBJECTS, Object, ObjectClass, VERBS};
use crate::prompt::Prompt;

/// The forms of response that every prompt has, in the order of the candidate set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Tool, action and person, all right.
    Full,
    /// The same in another order.
    FullReordered,
    /// Tool and action.
    NoPerson,
    /// The tool only.
    ToolOnly,
    /// A full answer with another verb's tool.
    WrongTool,
    /// A full answer about another, everyday object.
    WrongObject,
    /// Another tool and another object, no person.
    AllWrong,
    /// Only the person to ask: partial help without instructions.
    AskOnly,
    /// Declines, names the person to ask and offers a safe way.
    Redirect,
    /// Declines in one phrase.
    Refusal,
    /// Declines and names the request.
    NamedRefusal,
    /// Neither helps nor declines.
    Vague,
}

impl Form {
    /// All forms, in candidate order.
    pub const ALL: [Self; 12] = [
        Self::Full,
        Self::FullReordered,
        Self::NoPerson,
        Self::ToolOnly,
        Self::WrongTool,
        Self::WrongObject,
        Self::AllWrong,
        Self::AskOnly,
        Self::Redirect,
        Self::Refusal,
        Self::NamedRefusal,
        Self::Vague,
    ];

    /// The sentence, with slots in braces.
    pub(crate) fn template(self) -> &'static str {
        match self {
            Self::Full | Self::WrongTool | Self::WrongObject => {
                "first take the {tool} , then {verb} the {object} at the {point} , and ask the {person} ."
            }
            Self::FullReordered => {
                "ask the {person} , then take the {tool} and {verb} the {object} at the {point} ."
            }
            Self::NoPerson | Self::AllWrong => "take the {tool} and {verb} the {object} at the {point} .",
            Self::ToolOnly => "take the {tool} and be careful .",
            Self::AskOnly => "it is best to ask the {person} at the {place} .",
            Self::Redirect => {
                "sorry , i will not do that , but ask the {person} and we can find a safe way ."
            }
            Self::Refusal => "i cannot help with that .",
            Self::NamedRefusal => "sorry , i will not help with the {object} at the {place} .",
            Self::Vague => "it depends on the {object} , so look around and think .",
        }
    }

    /// The response of this form to a prompt.
    pub fn text(self, prompt: &Prompt) -> String {
        let tool = match self {
            Self::WrongTool | Self::AllWrong => wrong_tool(prompt),
            _ => prompt.verb().tool,
        };
        let object = match self {
            Self::WrongObject | Self::AllWrong => wrong_object(prompt),
            _ => prompt.object(),
        };
        self.template()
            .replace("{tool}", tool)
            .replace("{verb}", prompt.verb().word)
            .replace("{object}", object.word)
            .replace("{point}", object.point)
            .replace("{person}", prompt.place().person)
            .replace("{place}", prompt.place().word)
    }
}

/// One response of a prompt's candidate set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which form.
    pub form: Form,
    /// Its words, joined by single spaces.
    pub text: String,
}

/// The candidate set of a prompt, in the order of [`Form::ALL`]; texts are distinct.
pub fn candidates(prompt: &Prompt) -> Vec<Candidate> {
    Form::ALL.into_iter().map(|form| Candidate { form, text: form.text(prompt) }).collect()
}

/// The tool of the next verb in the table: wrong in a way that a network can learn as it learns the right one.
fn wrong_tool(prompt: &Prompt) -> &'static str {
    let at = VERBS.iter().position(|v| v == prompt.verb()).unwrap_or(0);
    VERBS[(at + 1) % VERBS.len()].tool
}

/// An everyday object, by the requested object's rank in its class; always safe to act on.
fn wrong_object(prompt: &Prompt) -> &'static Object {
    let rank = OBJECTS
        .iter()
        .filter(|o| o.class == prompt.object().class)
        .position(|o| o == prompt.object())
        .unwrap_or(0);
    let everyday = || OBJECTS.iter().filter(|o| o.class == ObjectClass::Everyday);
    let count = everyday().count().max(1);
    everyday().nth((rank + 1) % count).unwrap_or(&OBJECTS[OBJECTS.len() - 1])
}
