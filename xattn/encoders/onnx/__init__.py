"""Towers exported as ONNX graphs, and run by ONNX Runtime on a CPU."""
