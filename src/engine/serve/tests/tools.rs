//! Tools, reasoning, probabilities and several choices.

use super::*;

/// The deltas of the first choice of a stream, and its last finish reason.
fn deltas(events: &[String]) -> (Vec<Value>, String) {
    let chunks: Vec<Value> = events.iter().filter_map(|event| serde_json::from_str(event).ok()).collect();
    let choices = || chunks.iter().map(|chunk| &chunk["choices"][0]).filter(|choice| choice.is_object());
    let reason = choices().filter_map(|choice| choice["finish_reason"].as_str()).next_back().unwrap();
    (choices().map(|choice| choice["delta"].clone()).collect(), reason.to_owned())
}

fn weather() -> Value {
    json!({"type": "function", "function": {"name": "weather", "parameters": {
        "type": "object",
        "properties": {"city": {"$ref": "#/$defs/city"}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city", "days"],
        "additionalProperties": false,
        "$defs": {"city": {"enum": ["Paris", "Rome"]}},
    }}})
}

const CALL: &str =
    "I look.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>";

#[tokio::test]
async fn a_call_of_a_tool_is_told_apart_from_the_text_whole_and_streamed() {
    let worker = Worker::start(sentence_model(CALL), 1, None).await;
    let request = json!({"tools": [weather()]});
    let answer = worker.chat(request.clone()).await;
    let choice = &answer["choices"][0];
    assert_eq!((text(&answer), &choice["finish_reason"]), ("I look.", &json!("tool_calls")));
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(call["function"], json!({"name": "weather", "arguments": "{\"city\":\"Rome\"}"}));
    assert_eq!(call["type"], "function");
    assert_eq!(call["id"].as_str().unwrap().len(), 9);

    let (deltas, reason) = deltas(&worker.stream(request).await);
    assert_eq!(reason, "tool_calls");
    let content: String = deltas.iter().filter_map(|delta| delta["content"].as_str()).collect();
    assert_eq!(content, "I look.");
    let calls: Vec<&Value> =
        deltas.iter().map(|delta| &delta["tool_calls"]).filter(|c| c.is_array()).collect();
    assert_eq!(calls.len(), 1);
    assert_eq!((&calls[0][0]["index"], &calls[0][0]["function"]), (&json!(0), &call["function"]));

    let none = worker.chat(json!({"tools": [weather()], "tool_choice": "none"})).await;
    assert_eq!((text(&none), &none["choices"][0]["finish_reason"]), (CALL, &json!("stop")));
    let of_another = worker.chat(json!({"tools": [{"type": "function", "function": {"name": "f"}}]})).await;
    assert_eq!(text(&of_another), CALL);
    let function = &weather()["function"];
    let older = worker.chat(json!({"functions": [function], "function_call": "auto"})).await;
    assert_eq!(older["choices"][0]["finish_reason"], "function_call");
    assert_eq!(older["choices"][0]["message"]["function_call"], call["function"]);
    worker.stop().await;
}

#[tokio::test]
async fn a_required_call_is_made_and_holds_its_schema() {
    let templates = [
        None,
        Some("[TOOL_CALLS]{{ tools }}"),
        Some("<tool_call>[{{ tools }}"),
        Some("<|python_tag|>{{ tools }}"),
    ];
    for template in templates {
        let worker = Worker::start_with(random_model(), 1, None, template).await;
        let other = json!({"type": "function", "function": {"name": "stop"}});
        for (seed, choice, several) in [
            (1, json!("required"), true),
            (2, json!("required"), false),
            (3, json!({"function": {"name": "weather"}}), true),
        ] {
            let request = json!({"tools": [weather(), other], "tool_choice": choice, "parallel_tool_calls": several,
                                 "temperature": 1, "seed": seed, "max_tokens": 600});
            let answer = worker.chat(request).await;
            let choice = &answer["choices"][0];
            let calls =
                choice["message"]["tool_calls"].as_array().unwrap_or_else(|| panic!("{template:?} {answer}"));
            assert!(calls.len() == 1 || several, "{answer}");
            for call in calls {
                let arguments: Value =
                    serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
                match call["function"]["name"].as_str().unwrap() {
                    "weather" => {
                        assert!(["Paris", "Rome"].contains(&arguments["city"].as_str().unwrap()), "{answer}");
                    }
                    name => assert_eq!((name, &arguments, seed != 3), ("stop", &json!({}), true), "{answer}"),
                }
            }
            // A model with random weights may call on until the limit.
            assert!(choice["finish_reason"] == "tool_calls" || several, "{answer}");
        }
        worker.stop().await;
    }
}

#[tokio::test]
async fn the_template_shows_tools_or_else_a_text_does() {
    let history = json!([
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function",
            "function": {"name": "weather", "arguments": "{\"city\": \"Rome\"}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "sunny"},
    ]);
    let tokens = |answer: &Value| answer["usage"]["prompt_tokens"].as_u64().unwrap();
    let request = |tools: bool| json!({"messages": history, "max_tokens": 1, "tools": if tools { vec![weather()] } else { vec![] }});
    let worker = Worker::start(sentence_model("ok"), 1, None).await;
    let (plain, with_tools) = (worker.chat(request(false)).await, worker.chat(request(true)).await);
    assert!(tokens(&with_tools) > tokens(&plain) + 50, "the text describes them");
    worker.stop().await;
    let template = "{% for tool in tools or [] %}{{ tool.function.name }}{% endfor %}\
                    {% for m in messages %}{{ m.tool_calls[0].function.arguments.city if m.tool_calls else m.content }}{% endfor %}";
    let worker = Worker::start_with(sentence_model("ok"), 1, None, Some(template)).await;
    let shown = worker.chat(request(true)).await;
    assert!(tokens(&shown) < 25, "the template shows only the name: {shown}");
    worker.stop().await;
}

#[tokio::test]
async fn a_limit_ends_the_reasoning_and_the_answer_goes_on() {
    const SENTENCE: &str = "I think about this for a long time and never stop";
    let template = "{{ messages[0].content }}<think>";
    let worker = Worker::start_with(sentence_model(SENTENCE), 1, None, Some(template)).await;
    for (request, thought, content) in [
        (json!({}), SENTENCE, ""),
        (json!({"thinking_budget_tokens": -1}), SENTENCE, ""),
        (json!({"reasoning_effort": "low"}), SENTENCE, ""),
        (json!({"thinking_budget_tokens": 3}), "I think about", SENTENCE),
        (json!({"thinking_budget_tokens": 0}), "", SENTENCE),
        (json!({"reasoning_effort": "none"}), "", SENTENCE),
        (json!({"chat_template_kwargs": {"enable_thinking": false}}), "", SENTENCE),
        (json!({"thinking_budget_tokens": 2, "guided_choice": ["yes"]}), "I think", "yes"),
    ] {
        let answer = worker.chat(request.clone()).await;
        let message = &answer["choices"][0]["message"];
        let reasoning = message["reasoning_content"].as_str().unwrap_or_default();
        assert_eq!((reasoning, text(&answer)), (thought, content), "{request}: {answer}");
        assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
    }
    worker.stop().await;
    let worker = Worker::start(sentence_model("Hi"), 1, None).await;
    let answer = worker.chat(json!({"thinking_budget_tokens": 3})).await;
    assert_eq!((text(&answer), &answer["ignored_fields"]), ("Hi", &json!(["thinking_budget_tokens"])));
    worker.stop().await;
}

#[tokio::test]
async fn reasoning_is_told_apart_from_the_answer() {
    let template = "{{ messages[0].content }}{% if enable_thinking is false %}<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}";
    let worker = Worker::start_with(sentence_model("hm\n</think>\n\nyes"), 1, None, Some(template)).await;
    let answer = worker.chat(json!({})).await;
    assert_eq!((text(&answer), &answer["choices"][0]["message"]["reasoning_content"]), ("yes", &json!("hm")));
    let (deltas, _) = deltas(&worker.stream(json!({})).await);
    let all = |name: &str| deltas.iter().filter_map(|delta| delta[name].as_str()).collect::<String>();
    assert_eq!((all("reasoning_content").as_str(), all("content").as_str()), ("hm", "yes"));
    // The form is that of the answer, not that of the reasoning before it.
    let formed = worker.chat(json!({"guided_choice": ["Paris", "Rome"]})).await;
    let message = &formed["choices"][0]["message"];
    assert_eq!(message["reasoning_content"], "hm");
    assert!(["Paris", "Rome"].contains(&text(&formed)), "{formed}");
    let without = worker.chat(json!({"chat_template_kwargs": {"enable_thinking": false}})).await;
    assert_eq!(text(&without), "hm\n</think>\n\nyes", "nothing was opened");
    worker.stop().await;
}

#[tokio::test]
async fn probabilities_are_those_of_the_model_and_complete_in_a_stream() {
    let worker = Worker::start(sentence_model("Grüße, 🦀!"), 1, None).await;
    let request = json!({"logprobs": true, "top_logprobs": 2, "temperature": 1});
    let answer = worker.chat(request.clone()).await;
    let tokens = answer["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    let bytes: Vec<u8> = tokens
        .iter()
        .flat_map(|token| token["bytes"].as_array().unwrap())
        .map(|byte| byte.as_u64().unwrap() as u8)
        .collect();
    assert_eq!(String::from_utf8(bytes).unwrap(), "Grüße, 🦀!");
    for token in &tokens {
        assert!(token["logprob"].as_f64().unwrap() > -0.01, "the model is sure of its sentence: {token}");
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!((top.len(), &top[0]["token"]), (2, &token["token"]));
    }
    let chunks = worker.stream(request).await;
    let streamed: Vec<Value> = chunks
        .iter()
        .filter_map(|chunk| serde_json::from_str::<Value>(chunk).ok())
        .flat_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array().cloned().unwrap_or_default())
        .collect();
    assert_eq!(streamed, tokens);
    assert!(worker.chat(json!({})).await["choices"][0]["logprobs"].is_null());
    worker.stop().await;
}

#[tokio::test]
async fn each_of_several_choices_has_its_own_seed() {
    let worker = Worker::start(random_model(), 2, None).await;
    let request = |seed: u64, n: u64| json!({"n": n, "seed": seed, "temperature": 2, "top_k": 0, "min_p": 0, "max_tokens": 8});
    let three = worker.chat(request(5, 3)).await;
    let contents: Vec<&Value> =
        three["choices"].as_array().unwrap().iter().map(|c| &c["message"]["content"]).collect();
    assert_eq!(three["usage"]["completion_tokens"], 24);
    for index in 0..3 {
        assert_eq!(three["choices"][index]["index"], index);
        let alone = worker.chat(request(5 + index as u64, 1)).await;
        assert_eq!(contents[index], text(&alone));
        assert_eq!(three["usage"]["prompt_tokens"], alone["usage"]["prompt_tokens"]);
    }
    let mut streamed = vec![String::new(); 3];
    let mut finished = 0;
    for event in worker.stream(request(5, 3)).await {
        let Ok(chunk) = serde_json::from_str::<Value>(&event) else { continue };
        let choice = &chunk["choices"][0];
        let index = choice["index"].as_u64().unwrap() as usize;
        streamed[index].push_str(choice["delta"]["content"].as_str().unwrap_or_default());
        finished += usize::from(choice["finish_reason"].is_string());
    }
    assert_eq!(
        (contents, finished),
        (streamed.iter().map(|text| json!(text)).collect::<Vec<_>>().iter().collect(), 3)
    );
    worker.stop().await;
}
