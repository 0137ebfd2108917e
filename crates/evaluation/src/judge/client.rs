//! One question to the endpoint, and what its answer means for asking again.

use super::JudgeConfig;
use crate::error::EvaluationError;
use serde_json::Value;
use std::time::Duration;
use ureq::Agent;
use ureq::config::RedirectAuthHeaders;

/// Longer answers are not read.
const MAX_ANSWER_BYTES: u64 = 4 << 20;

/// What came of one try.
pub(super) enum Asked {
    /// The judge's words.
    Answer { text: String, tokens: u64 },
    /// Nothing usable; another try may help.
    Again { problem: String, wait: Option<Duration> },
}

pub(super) struct Client {
    agent: Agent,
    url: String,
    key: Option<String>,
}

impl Client {
    pub(super) fn new(config: &JudgeConfig) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .user_agent(concat!("bso/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(config.timeout.min(Duration::from_secs(20))))
            .timeout_global(Some(config.timeout))
            .build();
        let url = format!("{}/chat/completions", config.base_url.trim_end_matches('/'));
        Self { agent: agent.into(), url, key: config.api_key.clone() }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Sends the request once.
    ///
    /// # Errors
    /// A status that no other try will change: a wrong key, model, address or request.
    pub(super) fn ask(&self, request: &Value) -> Result<Asked, EvaluationError> {
        let mut post = self.agent.post(&self.url).header("content-type", "application/json");
        if let Some(key) = &self.key {
            post = post.header("authorization", format!("Bearer {key}"));
        }
        let again = |problem: String| Ok(Asked::Again { problem, wait: None });
        let mut response = match post.send(request.to_string()) {
            Ok(response) => response,
            Err(error) => return again(error.to_string()),
        };
        let status = response.status().as_u16();
        let wait = response.headers().get("retry-after").and_then(|v| v.to_str().ok()?.trim().parse().ok());
        let body = response.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_string();
        let text = match (status, body) {
            (408 | 409 | 425 | 429 | 500.., _) => {
                let wait = wait.map(|seconds: u32| Duration::from_secs(seconds.into()));
                return Ok(Asked::Again { problem: format!("HTTP status {status}"), wait });
            }
            (200, Ok(text)) => text,
            (200, Err(error)) => return again(error.to_string()),
            (status, body) => {
                return Err(EvaluationError::Refused {
                    url: self.url.clone(),
                    status,
                    said: body.unwrap_or_default().chars().take(200).collect(),
                    remedy: remedy(status),
                });
            }
        };
        let Ok(answer) = serde_json::from_str::<Value>(&text) else {
            return again("the answer is no JSON".to_owned());
        };
        match answer["choices"][0]["message"]["content"].as_str() {
            Some(content) => {
                let tokens = answer["usage"]["total_tokens"].as_u64();
                // An endpoint that counts no tokens is charged four bytes each.
                let tokens = tokens.unwrap_or((request.to_string().len() + content.len()) as u64 / 4);
                Ok(Asked::Answer { text: content.to_owned(), tokens })
            }
            None => again("the answer holds no choices[0].message.content".to_owned()),
        }
    }
}

fn remedy(status: u16) -> &'static str {
    match status {
        401 | 403 => "set the environment variable that judge.api_key_env names to a key for this endpoint",
        404 => "check judge.base_url (it ends in /v1 as a rule) and judge.model",
        _ => "check judge.model and that the endpoint speaks chat completions",
    }
}
