from resnet_jax.cli import main

main()
