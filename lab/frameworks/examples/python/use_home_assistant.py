"""Home Assistant itself: its Ollama integration as conversation agent over a light, and as an AI task."""

import tempfile
from types import MappingProxyType

from harness import MODEL, URL, run
from homeassistant import auth, bootstrap, config_entries, loader
from homeassistant.components.homeassistant.exposed_entities import async_expose_entity
from homeassistant.config_entries import ConfigSubentry
from homeassistant.core import Context, HomeAssistant
from homeassistant.setup import async_setup_component


def subentry(kind, **more):
    data = MappingProxyType({"model": MODEL, "num_ctx": 8192, "max_history": 20, "keep_alive": -1, **more})
    return {"subentry_type": kind, "data": data, "title": kind, "unique_id": None}


async def home():
    """A house with a light, and the integration set up as its dialog does."""
    hass = HomeAssistant(folder := tempfile.mkdtemp())
    hass.config.media_dirs = {"local": folder}
    hass.config_entries = config_entries.ConfigEntries(hass, {})
    loader.async_setup(hass)
    await bootstrap.async_load_base_functionality(hass)
    hass.auth = await auth.auth_manager_from_config(hass, [], [])
    for name in ("homeassistant", "conversation", "ai_task", "input_boolean"):
        assert await async_setup_component(
            hass, name, {"input_boolean": {"kitchen_light": {"name": "Kitchen light"}}}
        ), name
    async_expose_entity(hass, "conversation", "input_boolean.kitchen_light", True)
    flow = await hass.config_entries.flow.async_init("ollama", context={"source": "user"})
    entry = (await hass.config_entries.flow.async_configure(flow["flow_id"], {"url": URL}))["result"]
    hass.config_entries.async_add_subentry(
        entry, ConfigSubentry(**subentry("conversation", llm_hass_api=["assist"]))
    )
    hass.config_entries.async_add_subentry(entry, ConfigSubentry(**subentry("ai_task_data")))
    await hass.config_entries.async_reload(entry.entry_id)
    await hass.async_block_till_done()
    return hass


async def service(domain, name, **data):
    hass = await home()
    try:
        entity = next(
            state.entity_id
            for state in hass.states.async_all(domain)
            if state.entity_id != "conversation.home_assistant"
        )
        at = {"agent_id": entity} if domain == "conversation" else {"entity_id": entity}
        return await hass.services.async_call(
            domain, name, {**data, **at}, blocking=True, return_response=True, context=Context()
        )
    finally:
        await hass.async_stop(force=True)


async def chat():
    return await service("ai_task", "generate_data", task_name="joke", instructions="Tell a joke.")


async def tools():
    answer = await service("conversation", "process", text="Turn on the kitchen light, please.")
    assert answer["response"]["response_type"] != "error", answer
    return answer


async def structured():
    fields = {
        "yellow": {"selector": {"boolean": {}}, "required": True},
        "count": {"selector": {"number": {"min": 0, "max": 9}}, "required": True},
    }
    data = (
        await service(
            "ai_task",
            "generate_data",
            task_name="count",
            instructions="How many lights are on?",
            structure=fields,
        )
    )["data"]
    assert type(data["yellow"]) is bool, data
    return data


run(chat=chat, tools=tools, structured=structured)
