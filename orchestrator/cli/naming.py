"""The names a configuration offers, each with a line about what it is."""

from pathlib import Path

from orchestrator.config import OrchestratorConfig, PanelConfig, RouteConfig
from orchestrator.patterns import PatternLibrary


def deployment_names(config: OrchestratorConfig) -> dict[str, str]:
    """Deployments: provider and model."""
    return {name: f"{model.provider}/{model.model}" for name, model in config.models.items()}


def route_names(config: OrchestratorConfig) -> dict[str, str]:
    """Routes: the deployments behind each, in order."""
    return {name: route_line(route) for name, route in config.routes.items()}


def panel_names(config: OrchestratorConfig) -> dict[str, str]:
    """Panels: members and pattern."""
    return {name: panel_line(panel) for name, panel in config.panels.items()}


def model_names(config: OrchestratorConfig) -> dict[str, str]:
    """Everything that can be asked: panels first, they are what this is for."""
    return {**panel_names(config), **route_names(config), **deployment_names(config)}


def askable_names(config: OrchestratorConfig) -> dict[str, str]:
    """The same, and every panel behind every pattern: `debate/council`."""
    patterned = {
        f"{pattern}/{panel}": line
        for pattern in library(config)
        for panel, line in panel_names(config).items()
    }
    return {**model_names(config), **patterned}


def pattern_names(config: OrchestratorConfig) -> dict[str, str]:
    """Patterns: their descriptions."""
    return {name: pattern.description for name, pattern in library(config).items()}


def library(config: OrchestratorConfig) -> PatternLibrary:
    """The built-in patterns and those of the configuration."""
    return PatternLibrary(*([Path(config.patterns_dir)] if config.patterns_dir else []))


def route_line(route: RouteConfig) -> str:
    """`gemini, gpt, else claude`."""
    fallback = f", else {', '.join(route.fallback)}" if route.fallback else ""
    return ", ".join(route.models) + fallback


def panel_line(panel: PanelConfig) -> str:
    """`gpt, claude, gemini · critique`."""
    return f"{', '.join(panel.members)} · {panel.pattern}"
