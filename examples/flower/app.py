"""Four clients learn digits by Flower under a defense, and what the server receives is recorded:

    python examples/flower/app.py "noise(std=0.01)" runs/flower

prints the command that asks which images were behind the gradients of the first round.
"""

import secrets
import sys
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.simulation import run_simulation
from model import BATCH, CLIENTS, MEAN, STD, batch, build, digits, entering
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import defenses
from benchmark.flower.exchange import Gradients
from benchmark.flower.fed_sgd import FedSGD
from benchmark.flower.mod import DefenseMod
from benchmark.flower.recording import Recording
from defenses.support.seeds import derive


def client_app(specification, seed):
    try:  # what only changes a gradient can be put before any client that is there
        mods, training = [DefenseMod(specification, build, Gradients(), seed=seed)], defenses.NoDefense()
    except ValueError:  # the rest, as DP-SGD, is how the client trains
        mods, training = [], defenses.create(specification)
    app = ClientApp(mods=mods)

    @app.train()
    def train(message, context):
        client, round_ = context.node_config["partition-id"], message.content["config"]["server-round"]
        module = build()
        torch.manual_seed(secrets.randbits(62) if seed is None else derive("client", seed, client, round_))
        private = training.make_private(module=module, optimizer=torch.optim.SGD(module.parameters()),
                                        data_loader=DataLoader(TensorDataset(*batch(client, round_)), batch_size=BATCH))
        kept = context.state["private"].to_torch_state_dict() if "private" in context.state else private.state_dict()
        private.load_state_dict({**kept, **message.content["arrays"].to_torch_state_dict()})
        for x, y in private.data_loader:
            private.backward(x, y)
        context.state["private"] = ArrayRecord(private.state_dict())
        gradient = {name: p.grad for name, p in private.module.named_parameters()}
        content = {"arrays": ArrayRecord(gradient), "metrics": MetricRecord({"num-examples": BATCH})}
        return Message(RecordDict(content), reply_to=message)

    return app


def server_app(defense, out):
    app, (*_, pixels, labels) = ServerApp(), digits()

    def model():
        return defense.extend_model(build())

    def evaluate(round_, weights):
        module = model().eval()
        module.load_state_dict(weights.to_torch_state_dict())
        accuracy = (module(entering(pixels)).argmax(1) == torch.from_numpy(labels)).float().mean().item()
        print(f"round {round_}: test accuracy {accuracy:.3f}", flush=True)

    @app.main()
    def main(grid, context):
        training = FedSGD(step_size=0.2, fraction_evaluate=0.0, min_train_nodes=CLIENTS, min_available_nodes=CLIENTS)
        strategy = Recording(training, out, model, Gradients(), batch_size=BATCH, image_shape=(1, 28, 28), mean=[MEAN], std=[STD])
        torch.manual_seed(0)
        strategy.start(grid, ArrayRecord(model().state_dict()), num_rounds=3, evaluate_fn=evaluate)

    return app


if __name__ == "__main__":
    specification, out, *seed = sys.argv[1:]
    defense = defenses.create(specification)
    run_simulation(server_app(defense, out), client_app(specification, int(seed[0]) if seed else None), num_supernodes=CLIENTS,
                   backend_config={"client_resources": {"num_cpus": 1}})
    for place, (pixels, label) in enumerate(zip(*digits()[:2], strict=True)):  # suspects, and other images that anyone has
        path = Path(out, "suspects" if place < 200 else "public", str(label), f"{place}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[..., 0]).save(path)
    print(f"leakboard identify {out}/round-1/observation.safetensors --weights {out}/round-1/weights.safetensors --candidates "
          f'{out}/suspects --public {out}/public --model {Path(__file__).with_name("model.py")}:build --defense "{specification}"')
