"""Stages that turn one topic into another, each a thin Faust shell around pure logic that lies beside it."""
