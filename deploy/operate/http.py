"""``POST /v0/operate/<command>``: operator commands on a running server, for administrators."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import MediaType, Request, Response, post
from litestar.status_codes import HTTP_200_OK
from litestar.types import ControllerRouterHandler

from deploy.operate.registry import COMMANDS
from deploy.operate.services import OperatorServices
from shared.auth.tokens import ADMIN, TokenStore
from shared.errors import BadRequestError, NotFoundError
from shared.web.guards import authenticate

PATH = "/v0/operate"


def operate_route(services: OperatorServices, tokens: TokenStore) -> ControllerRouterHandler:
    """The route of all commands; arguments and result are JSON objects."""

    @post(PATH + "/{command:str}", status_code=HTTP_200_OK)
    async def operate(request: Request[Any, Any, Any]) -> Response[bytes]:
        authenticate(request.scope, tokens).require(ADMIN)
        name = request.path_params["command"]
        command = COMMANDS.get(name)
        if command is None:
            raise NotFoundError(
                f"There is no command '{name}'.", hint=f"There are: {', '.join(sorted(COMMANDS))}."
            )
        body = await request.body()
        try:
            arguments = msgspec.json.decode(body or b"{}", type=command.arguments)
        except msgspec.MsgspecError as error:
            raise BadRequestError(f"The arguments of '{name}' cannot be read: {error}.") from error
        result = await command.run(services, arguments)
        return Response(msgspec.json.encode(result), media_type=MediaType.JSON)

    return operate
